"""A sharp image -> a degraded one, from a seed."""
