"""Joins many small S3 objects of each topic-partition into few large ones, without losing or repeating a record."""

from importlib.metadata import version

__version__ = version("coalesce-s3")
