"""Watching a run by its event log alone, in a terminal or a browser."""
