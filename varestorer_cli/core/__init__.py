"""The shared core: everything between the commands and the tensors."""
