"""Defenses, one paper per file, and their catalog."""
