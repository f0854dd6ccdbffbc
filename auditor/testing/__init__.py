"""Shipped fakes: a toy target with a known answer, a toy prior, in-memory ports."""
