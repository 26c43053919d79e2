"""The synthetic data set: an offline demonstration."""
