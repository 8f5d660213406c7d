"""Joins many small S3 objects of each topic-partition into few large ones, without losing or
repeating a record.
"""


def __getattr__(name: str) -> str:
    """`__version__` is looked up when it is asked for: that costs as much as the rest of
    `--help`.
    """
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version

    return version("coalesce-s3")
