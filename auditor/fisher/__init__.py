"""Diagonal Fisher information by layer: which layers matter to inversion and which to classification."""
