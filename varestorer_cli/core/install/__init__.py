"""Published files -> installed models (pull, import, verify)."""
