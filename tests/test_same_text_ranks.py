"""Repeated texts on two ranks are those of one process with the large batch.

A rank without repeated texts must take the way of the other one, or they would wait for ever.
"""

from __future__ import annotations

import pytest
from conftest import Launcher

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return Launcher(tmp_path_factory.mktemp("same_text")).worker("ddp_same_text")


def test_loss_and_counts_match_a_single_process(cases: list[dict]) -> None:
    assert len(cases) == 8 * 2 * 4 * 2
    wrong = [
        case
        for case in cases
        if abs(case["loss"] - case["expected"]) > 1e-9 * abs(case["expected"])
        or case["found"] != case["expected_found"]
    ]
    assert not wrong, wrong[:2]


def test_gradients_match_a_single_process(cases: list[dict]) -> None:
    """Except --local-loss without --gather-with-grad: open_clip's gradient is not the full one."""
    exact = [case for case in cases if case["grad"] or not case["local"]]
    wrong = [case for case in exact if case["gradient_error"] > 1e-8]
    assert len(exact) == 7 * 2 * 4 * 2 and not wrong, wrong[:2]


def test_without_repeated_texts_it_is_bit_for_bit_the_same(cases: list[dict]) -> None:
    for case in cases:
        # similarity finds some of those texts alike; a text of the stream is in mixed pairs alone
        repeats = case["texts"] != "none" or case["similarity"] is not None
        if case["texts"] == "with the stream" and case["mixed"] == "no mixed pair":
            repeats = False
        assert case["is_stock"] is not repeats, case
    assert {case["found"][2] for case in cases if case["texts"] == "across ranks"} == {3}
