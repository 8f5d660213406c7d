"""Listing prefixes: groups, complete or unknown."""
