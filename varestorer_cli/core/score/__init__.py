"""The command `score`: pairs, scores, tables, pages, test sets."""
