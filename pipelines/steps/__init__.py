"""One module a step; a step is a function of the tools and small records."""
