"""Attacks on split inference: one image is rebuilt from what a device sent to a server."""
