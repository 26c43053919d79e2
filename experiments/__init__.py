"""The reference experiments: `python -m experiments.reproduce`, from the project's root. README.md says what they are."""
