"""The version of varestorer; the only place that states it in code."""

__version__ = "0.1.0"
