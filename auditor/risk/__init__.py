"""Pure policy arithmetic: evidence and thresholds in, verdict out."""
