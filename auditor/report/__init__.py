"""Render a report as JSON, HTML and Markdown."""
