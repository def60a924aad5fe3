"""Bundled weights, model card and sample photographs."""
