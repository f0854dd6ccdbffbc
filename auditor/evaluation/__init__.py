"""Evaluators, judges, ceilings, controls, metrics and intervals."""
