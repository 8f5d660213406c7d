"""The tables of exit codes say what the program says."""

import re
from pathlib import Path

import pytest

from coalesce.exits import ExitCode, worst

ROOT = Path(__file__).parent.parent
CODES = sorted(ExitCode)


def rows(page: str) -> dict[int, str]:
    """What stands beside each code in the first table of exit codes of a page."""
    table = (ROOT / page).read_text("utf-8").partition("| code | meaning |")[2]
    found: dict[int, str] = {}
    for codes, meaning in re.findall(r"^\| ([\d, ]+) \| (.*?) \|", table, re.MULTILINE):
        found |= {int(code): meaning for code in codes.split(",")}
    return found


def test_the_readme_has_every_code_in_the_programs_own_words() -> None:
    said = {code: meaning.replace("`", "") for code, meaning in rows("README.md").items()}
    assert said == {code.value: code.meaning for code in CODES}


def test_the_page_of_exit_codes_has_every_code() -> None:
    assert sorted(rows("docs/exit-codes.md")) == CODES


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("README.md", r"the first of ([\d, ]+) is returned"),
        ("docs/exit-codes.md", r"the first in this order is returned: \*\*([\d, ]+)\*\*"),
    ],
)
def test_both_say_which_of_several_codes_is_returned(page: str, sentence: str) -> None:
    (order,) = re.findall(sentence, (ROOT / page).read_text("utf-8"))
    codes = [int(code) for code in order.split(",")]
    assert codes == [worst(*codes[n:]) for n in range(len(codes))]
    assert set(codes) == set(CODES) - {ExitCode.USAGE, ExitCode.NOTHING}
