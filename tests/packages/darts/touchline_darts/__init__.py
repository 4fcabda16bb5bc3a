"""Darts for Touchline."""
