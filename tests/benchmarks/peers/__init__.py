"""Other ways to serve the same model, as their guides show them; each in an environment of its own."""
