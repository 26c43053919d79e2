"""Benchmarks of kseg: `python -m benchmarks COMMAND`, from the project's root. README.md says how to run them."""
