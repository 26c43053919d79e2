"""Training: from a config to a run directory. loop.py is the place to start."""
