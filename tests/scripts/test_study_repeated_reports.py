"""scripts/studies/repeated_reports.py: random batches agree with the expectation, and the page."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import ROOT

from openclip_eclip.data.repeated_texts import expected_repeats

SCRIPT = ROOT / "scripts" / "studies" / "repeated_reports.py"
PAGE = ROOT / "docs" / "results" / "repeated_reports.md"


@pytest.fixture(scope="module")
def study() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))  # it takes a function of the study beside it
        spec = importlib.util.spec_from_file_location("repeated_reports", SCRIPT)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "repeated_reports", module)
        spec.loader.exec_module(module)
        return module


def test_drawn_batches_agree_with_the_expectation(study: ModuleType) -> None:
    texts = ["a"] * 30 + ["b"] * 8 + [str(i) for i in range(62)]
    drawn, expected = study.draw_batches(texts, 16, 4000), expected_repeats(texts, 16)
    for found, value in ((drawn.pairs, expected.pairs), (drawn.share, expected.share)):
        assert abs(found.mean - value) < 4 * found.deviation / 4000**0.5
        assert found.low < found.mean < found.high and found.deviation > 0


def test_the_floor_is_the_loss_of_equal_texts(study: ModuleType) -> None:
    assert study.draw_batches(["a"] * 4, 4, 3).floor.mean == pytest.approx(1.386294361)
    assert study.draw_batches(list("abcd"), 4, 3).floor.mean == 0


def test_equal_texts_but_for_case_spaces_and_punctuation(study: ModuleType) -> None:
    one, other = "1. No  acute disease. ", "no acute\ndisease"
    assert study.squeeze(one) == "1. no acute disease."
    assert study.words_only(one) == study.words_only(other) == "no acute disease"
    assert study.words_only("T8 fracture, 3 mm.") == "t8 fracture 3 mm"


@pytest.mark.skipif(
    importlib.util.find_spec("torchxrayvision") is None, reason="the reports come with that package"
)
def test_the_page_is_what_the_script_writes(study: ModuleType) -> None:
    page = Path(PAGE).read_text(encoding="utf-8")
    assert study.setting_row("findings and impression", "exactly", False, 1000) in page
    assert study.size_row(256, 1000) in page
