"""The training photographs of the bundled models: which packages hold them, and the script behind ``make photos``."""
