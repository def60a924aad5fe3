"""Array -> tiles -> network -> array; no path, no file."""
