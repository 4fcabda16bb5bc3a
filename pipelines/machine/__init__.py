"""The one-machine runtime: PostgreSQL from its wheel, supervisord, a keeper before each service."""
