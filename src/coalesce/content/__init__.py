"""How the bytes of sources become the bytes of an output.

A joiner takes one source's body in pieces, checks it in one pass, and returns what goes into the
output. Each rule follows from what readers do:

- Joined gzip members are one valid gzip file (RFC 1952, 2.2), but the JDK's `GZIPInputStream` over
  a network stream may stop between two of them; some readers of zstd frames and bzip2 streams stop
  after the first. So the text of all sources is compressed again into one member, unless the
  members are asked for as they are.
- Nothing may follow the last member, not even zero padding: Hadoop's codec fails on it, and the
  JDK's `GZIPInputStream` hides every later record.
- A truncated member hides every later record too, so a source is whole or it is not joined.
- Text without a final newline would fuse two records, so the newline is added.
- Empty members are left out: the JDK's reader recurses once for each, and thousands in a row
  overflow its stack.
"""
