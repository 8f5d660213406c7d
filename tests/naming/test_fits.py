"""Which layouts fit the keys that lie in a bucket."""

from hypothesis import given
from hypothesis import strategies as st

from coalesce.naming.fits import Fits
from coalesce.naming.layouts import LAYOUTS

KEYS = st.sampled_from(
    [
        "a/t_0_1-2.jsonl.gz",
        "a/t_0_1_2.jsonl.gz",
        "a/t_0_1-t_0_2.txt",
        "a/t_0_1_t_0_2.txt",
        "a/part-0001.json",
        "a/",
    ]
)


@given(st.lists(KEYS | st.text(max_size=12), max_size=30))
def test_every_key_fits_a_layout_or_none(keys: list[str]) -> None:
    fits = Fits()
    fits.add(keys)
    fitting = [key for key in keys if any(each.parse(key) for each in LAYOUTS.values())]
    assert (fits.keys, fits.unparsed) == (len(keys), len(keys) - len(fitting))
    assert fits.examples == [key for key in keys if key not in fitting][:5]
    for fit in fits.layouts:
        kinds = [parsed.kind for key in keys if (parsed := LAYOUTS[fit.layout].parse(key))]
        assert (fit.sources, fit.outputs) == (kinds.count("source"), kinds.count("output"))
    counts = {fit.layout: fit.sources + fit.outputs for fit in fits.layouts}
    assert counts.get(fits.best, 0) == max(counts.values())
    assert (fits.best == "") == (not fitting)
