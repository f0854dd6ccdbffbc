"""Routes of the pages by noun; every file has one `router`, and `auditor.api.web.app` lists them all."""
