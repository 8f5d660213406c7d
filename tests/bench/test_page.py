"""What the written pages say of figures."""

from xml.etree import ElementTree

from bench.chart import drawn
from bench.page import aims, expected, scenario
from bench.process import Cost
from bench.results import Results, Run
from bench.scenarios import FULL
from bench.site import Asked

TLS = FULL[0]


def figures() -> Results:
    """10,000 sources over TLS in 9 s, with 0.8 ms of CPU for each."""
    results = Results()
    cost = Cost(9.0, 8.0, 9.0, 150 * 2**20, 150 * 2**20, "")
    for name in TLS.names:
        results.add_run(TLS, name, Run(cost, Asked({"GetObject": 10_000}, 1.0)))
    return results


def test_a_user_sees_what_was_measured_and_what_is_expected_of_more() -> None:
    rows = [line.split(" | ") for line in expected(figures()).splitlines() if "100 KB" in line]
    assert [row[0] for row in rows] == ["| 10,000", "| 1,000,000", "| 100,000,000"]
    assert rows[0][2:5] == ["**9 s**", "-", "-"]
    assert rows[0][-1] == "**150 MiB** / - / - |"
    assert rows[1][2:5] == ["~13.3 min", "~4.8 min", "~4.8 min"]  # and S3 allows no less


def test_sizes_that_were_not_measured_are_not_told() -> None:
    assert "KB" not in expected(Results())


def test_every_contestant_of_a_scenario_has_its_row() -> None:
    table = "\n".join(scenario(figures().of(TLS)))
    assert all(f"| {name.replace('|', chr(92) + '|')} |" in table for name in TLS.names)


def test_tables_have_as_many_cells_in_each_row() -> None:
    results = figures()
    for table in (aims(results), scenario(results.of(TLS)), expected(results).splitlines()):
        rows = [line.replace("\\|", "") for line in table if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1


def test_the_chart_is_an_image_with_a_bar_for_everyone() -> None:
    root = ElementTree.fromstring(drawn(figures().results))
    bars = root.findall("{http://www.w3.org/2000/svg}rect")
    assert len(bars) == len(TLS.names)
