"""One module per subcommand; each parses, validates and calls one core function."""
