"""Unit handlers: each a function from a unit and its workspace to a value, run in the runner process."""
