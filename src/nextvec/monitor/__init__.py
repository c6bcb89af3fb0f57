"""Watching a run from its event log alone: `state` (events to plain values) · `view` (to text) · `terminal`."""
