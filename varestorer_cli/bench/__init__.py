"""Benchmarks behind `make bench*` and `make ablate`."""
