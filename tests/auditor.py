"""What a bucket holds, judged by code that shares nothing with the program: Python's own gzip, and regular expressions of the readers."""

import gzip
import re
from collections import Counter
from collections.abc import Iterable, Mapping

SOURCE = re.compile(r"(.*/)?[\w.-]+_\d+_\d+-\d+\.jsonl\.gz|(.*/)?[\w.-]+_\d+_\d+-[\w.-]+_\d+_\d+\.txt")


def records(objects: Mapping[str, bytes], prefix: str) -> Counter[bytes]:
    """Every record under a prefix, and how often a reader would meet it."""
    found: Counter[bytes] = Counter()
    for key, data in objects.items():
        if key.startswith(prefix):
            text = gzip.decompress(data) if key.endswith(".gz") else data
            found.update(line for line in text.split(b"\n") if line)
    return found


def sources(keys: Iterable[str]) -> list[str]:
    """The keys that are small objects still waiting to be joined."""
    return sorted(key for key in keys if SOURCE.fullmatch(key))
