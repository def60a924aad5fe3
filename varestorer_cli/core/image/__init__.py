"""Image files in and out, with everything they say, and resampling of pixels."""
