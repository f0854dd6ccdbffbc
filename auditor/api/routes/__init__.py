"""Routes by noun; every file has one `router`, and `ROUTERS` lists them all."""
