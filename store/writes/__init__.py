"""Writes: rows of requests checked, committed in groups, made durable and put into the derived state."""
