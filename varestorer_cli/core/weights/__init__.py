"""Model files: format, names, catalogue of published ones, the folder they live in."""
