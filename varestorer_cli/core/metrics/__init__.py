"""One image against another, or alone -> a number; whose library computes it."""
