"""Speed, cost and real-data runs: every table is made in one run and printed as ratios against a peer."""
