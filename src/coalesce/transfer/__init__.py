"""The bytes of a batch, from its sources into the parts of its upload, in bounded memory."""
