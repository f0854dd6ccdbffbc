"""Typer commands: parse, call a use-case, print, exit code."""
