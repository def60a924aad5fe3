"""Captions and prompts -> text features."""
