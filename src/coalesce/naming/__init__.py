"""What a key says: its group, its offsets, and the shard that owns it. Pure."""
