"""Training of tokenizer, pre-restorer and teacher, and the one-step distillation."""
