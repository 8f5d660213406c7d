"""A fast and honest S3 stand-in on loopback: real bodies, real sums, every condition enforced, so
that clients are measured and not the server.
"""
