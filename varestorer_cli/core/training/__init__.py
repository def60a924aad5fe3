"""The commands `train` and `distill`, and their data."""
