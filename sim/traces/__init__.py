"""Request traces: read, written, described and made up."""
