"""The sandboxed compute process that a worker starts per unit."""
