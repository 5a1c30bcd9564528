"""scripts/studies/draw_tables.py: the figures show the numbers of the committed pages."""

from __future__ import annotations

import draw_tables
import pytest
from conftest import ROOT

RESULTS = ROOT / "docs" / "results"


def page(name: str) -> str:
    return (RESULTS / name).read_text(encoding="utf-8")


def test_coverages_are_all_those_of_the_page() -> None:
    settings = draw_tables.coverages(page("coverage.md"))
    assert len(settings) == 28 and {setting.seeds for setting in settings} == {2, 3, 5, 10}
    lines = [line.split(" | ") for line in page("coverage.md").splitlines()]
    for setting in settings:
        (line,) = [w for w in lines if w[:2] == [f"| {setting.regime}", str(setting.seeds)]]
        assert (line[2], line[4]) == (f"{setting.before:.1f} %", f"{setting.now:.1f} %")
    (axes,) = draw_tables.draw_coverage(settings).axes
    drawn = [y for line in axes.lines[:2] for y in line.get_ydata()]
    assert drawn == [s.before for s in settings] + [s.now for s in settings]


def test_costs_are_drawn_from_the_cheapest_method_on() -> None:
    costs = draw_tables.step_costs(page("methods.md"), page("benchmark_train_gpu.md"))
    assert costs["CLIP"] == 1 and {"eclip-plus", "eCLIP", "GLoRIA", "m3-mix"} < set(costs)
    (axes,) = draw_tables.draw_costs(costs).axes
    assert [bar.get_width() for bar in axes.patches] == sorted(costs.values())


def test_a_page_without_its_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="no table of coverages"):
        draw_tables.coverages("# Coverage\n")
    with pytest.raises(ValueError, match="table of step times is missing"):
        draw_tables.step_costs("", page("benchmark_train_gpu.md"))
