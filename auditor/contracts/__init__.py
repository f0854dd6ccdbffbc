"""Frozen JSON-only values: the single source of truth for API, database, CLI and report."""
