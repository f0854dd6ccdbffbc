"""Submission to target: format sniffing, safety checks, and the loaders behind them."""
