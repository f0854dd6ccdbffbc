"""Procedural identities and the guided demo."""
