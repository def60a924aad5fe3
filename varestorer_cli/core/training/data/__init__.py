"""Training photographs -> a cache of crops -> batches of pairs."""
