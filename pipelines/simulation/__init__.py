"""Simulated clients: rows and late labels streamed at a running endpoint."""
