"""One file a use case, each with a USE_CASE of the file's name."""
