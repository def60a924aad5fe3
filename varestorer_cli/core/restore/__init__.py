"""The command `restore`: session, stages, batch, several devices, page."""
