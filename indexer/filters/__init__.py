"""Filters over kinds and attributes: the attribute index, rows that pass, the policy of filtered search."""
