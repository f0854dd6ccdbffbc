"""From a submitted file to a target: format, safety, parity; and back to a file."""
