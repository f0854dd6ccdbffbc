"""Targets: the model under audit, and the narrowed views through which attacks reach it."""
