"""Names at the ends of what a number or a table holds."""

import pytest

from coalesce.model import Source
from coalesce.naming.layouts import LAYOUTS
from coalesce.naming.shards import Shard
from coalesce.naming.sources import Sources

LARGEST = 2**63 - 1


@pytest.mark.parametrize("name", ["t_0_{}-{}.jsonl.gz", "t_0_{}_{}.jsonl.gz"])
def test_offsets_are_signed_64_bit_numbers(name: str) -> None:
    """A larger number would end the listing of all other groups."""
    parse = LAYOUTS["corporate"].parse
    assert parse(name.format(LARGEST, LARGEST)) is not None
    for first, last in ((0, LARGEST + 1), (LARGEST + 1, 0), (LARGEST + 1, LARGEST + 1)):
        assert parse(name.format(first, last)) is None


def test_the_same_holds_of_manifests() -> None:
    parse = LAYOUTS["manifest"].parse
    assert parse(f"t_0_{LARGEST}-u_1_{LARGEST}.txt") is not None
    assert parse(f"t_0_0-u_1_{LARGEST + 1}.txt") is None
    assert parse(f"t_0_{LARGEST + 1}-u_1_0.txt") is None


@pytest.mark.parametrize("layout", ["corporate", "manifest"])
def test_digits_of_other_scripts_are_no_numbers(layout: str) -> None:
    end, other = (".jsonl.gz", "") if layout == "corporate" else (".txt", "u_1_")
    plain = f"t_0_3-{other}4{end}"
    assert LAYOUTS[layout].parse(plain) is not None
    for digit in "034":
        assert LAYOUTS[layout].parse(plain.replace(digit, "\N{ARABIC-INDIC DIGIT FIVE}")) is None


def test_a_shard_is_less_than_the_number_of_shards() -> None:
    assert Shard.parse("3/4") == Shard(3, 4)
    for text in ("4/4", "5/4", "0/0"):
        with pytest.raises(ValueError):
            Shard.parse(text)


@pytest.mark.parametrize("kinds", [2**16 - 1, 2**16, 2**16 + 1])
def test_any_number_of_kinds_of_names_comes_back_as_it_was(kinds: int) -> None:
    """As many storage classes or leading zeros as there may be in a group."""
    etag = f'"{"0" * 32}"'
    sources = [
        Source(f"d/t_0_{n}-{n}.jsonl.gz", 1, etag, 0.0, f"CLASS{n}", n, n) for n in range(kinds)
    ]
    packed = Sources.of("d/t_0_", sources)
    assert [packed[at] for at in (0, 1, kinds - 2, kinds - 1)] == [
        sources[at] for at in (0, 1, kinds - 2, kinds - 1)
    ]
