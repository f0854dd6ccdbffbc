"""Attacks: shared objectives and latent loops, then one paper per file, and the catalog."""
