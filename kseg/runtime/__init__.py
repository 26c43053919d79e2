"""Run directories, processes, devices, memory and signals."""
