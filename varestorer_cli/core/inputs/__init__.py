"""What the user named -> jobs with outputs, refused before work where they clash."""
