"""Diagonal Fisher information, execution-ordered units and per-layer scores."""
