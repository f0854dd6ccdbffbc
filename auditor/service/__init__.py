"""Use-cases, ports and the order of stages: the one service behind every door."""
