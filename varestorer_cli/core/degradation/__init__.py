"""A sharp picture -> a degraded one, from a seed."""
