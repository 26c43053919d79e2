"""The runtime: run directories, processes, devices, memory and signals."""
