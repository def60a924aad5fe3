"""What a run leaves behind: CSV rows, summary, HTML pages."""
