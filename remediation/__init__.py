"""Repair: freezing, fine-tuning, format round trip, re-audit and comparison."""
