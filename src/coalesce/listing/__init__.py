"""Lists prefixes: groups are found complete, or what is there counts as unknown."""
