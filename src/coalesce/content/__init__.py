"""How the bytes of sources become the bytes of an output.

A joiner takes one source's body in pieces, checks it in one pass, and returns what goes into the
output. Nothing is compressed again. Each rule follows from what readers do:

- Joined gzip members are one valid gzip file (RFC 1952, 2.2).
- Nothing may follow the last member, not even zero padding: Hadoop's codec fails on it, and the
  JDK's `GZIPInputStream` hides every later record.
- A truncated member hides every later record too, so a source is whole or it is not joined.
- Text without a final newline would fuse two records, so the newline is added.
- Empty members are left out: the JDK's reader recurses once for each, and thousands in a row
  overflow its stack.
"""
