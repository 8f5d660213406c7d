"""Keys and what they say: which group a key belongs to, which shard owns it, and the sources of a
group.
"""
