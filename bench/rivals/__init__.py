"""What else people join small objects with, written as they would write it.

Each is run as `python -m bench.rivals.NAME ENDPOINT BUCKET PREFIX`.
"""
