"""Artifact stores and job queues."""
