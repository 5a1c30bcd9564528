"""Invariant 3: two processes of B samples match a single process of 2 B samples.

This holds for every share of annotated samples on the ranks. A rank that skips a collective makes
the others wait for ever; the time limit turns that into a failure.
"""

from __future__ import annotations

import re

import pytest
from conftest import BASIC, Launcher, write_table

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    launcher = Launcher(tmp_path_factory.mktemp("ddp"))
    return launcher.worker("ddp_loss")


@pytest.fixture
def results(result: dict[str, list[dict]]) -> list[dict]:
    return result["cases"]


def test_every_case_ran(results: list[dict]) -> None:
    assert len(results) == 4 * 3 * 5 + 4 * 3 + 3 * 5


def test_loss_matches_a_single_process(results: list[dict]) -> None:
    wrong = [
        case for case in results if abs(case["loss"] - case["expected"]) > 1e-9 * case["expected"]
    ]
    assert not wrong, wrong[:2]


def test_gradients_match_a_single_process(results: list[dict]) -> None:
    """Except --local-loss without --gather-with-grad: open_clip's gradient is not the full one."""
    exact = [case for case in results if case["grad"] or not case["local"]]
    wrong = [case for case in exact if case["gradient_error"] > 1e-8 or case["names"]]
    assert len(exact) == 69 and not wrong, wrong[:2]


TERMS = {
    "priming": ["contrastive_loss", "priming_loss"],
    "gloria": ["contrastive_loss", "priming_loss", "gloria_local_loss"],
    "several": [
        "contrastive_loss",
        "priming_loss",
        "dacl_loss",
        "m3_v_loss",
        "m3_l_loss",
        "m3_vl_loss",
        "m3_m2_loss",
        "align_loss",
    ],
}
TERMS |= {
    "siglip": TERMS["several"],
    "gloria, rank": TERMS["gloria"],
    "priming alone": TERMS["priming"],
    "no annotation": [term for term in TERMS["several"] if term != "priming_loss"],
}


def test_every_loss_term_ran_under_all_flags(result: dict[str, list[dict]]) -> None:
    """Each term had a gradient, except priming outside its phase and unannotated alignment."""
    twice = ("priming", "gloria", "several", "siglip")
    modes = {setup: 1 if setup == "siglip" else 4 for setup in TERMS}
    expected = [
        (setup, term)
        for setup in TERMS
        for term in TERMS[setup] * modes[setup] * (2 if setup in twice else 1)
    ]
    assert sorted((case["setup"], case["term"]) for case in result["terms"]) == sorted(expected)
    empty = {(case["setup"], case["term"]) for case in result["terms"] if case["empty"]}
    assert empty == {
        (setup, "priming_loss") for setup in ("gloria", "several", "siglip", "gloria, rank")
    } | {("no annotation", "align_loss")}


def test_loss_terms_keep_their_ratio_under_all_flags(result: dict[str, list[dict]]) -> None:
    """Each term's gradient is that of a single process times open_clip's factor.

    Also over two micro-batches on a rank. Its value, and the gradient of the scale, are those of a
    single process. For the contrastive term with --local-loss and without --gather-with-grad, the
    part that open_clip keeps is compared.
    """
    wrong = [
        case
        for case in result["terms"]
        if case["error"] > 1e-8
        or case["value"] != pytest.approx(case["expected"], rel=1e-9)
        or case["scale"] != pytest.approx(case["expected_scale"], rel=1e-8, abs=1e-12)
    ]
    assert not wrong, wrong[:2]


def test_training_with_uneven_annotations_on_two_ranks(launcher: Launcher) -> None:
    """Three of 24 samples are annotated, so most batches have none on a rank.

    Runs with and without the separate stream reach the end.
    """
    table = write_table(launcher.folder, 24, annotated=[0, 5, 6])
    common = (
        *BASIC,
        *("--train-data", table),
        *"--batch-size 4 --epochs 3 --eclip-curriculum 0.2 0 0 0 0 1".split(),
    )
    launcher.train(
        (*common, "--name", "global"),
        (*common, "--name", "local", "--local-loss", "--gather-with-grad"),
        (
            *common,
            *"--name accum --accum-freq 3 --local-loss --gather-with-grad".split(),
            "--grad-checkpointing",
        ),
        (
            *common,
            "--name",
            "stream",
            *("--expert-data", table),
            *"--expert-batch-size 2 --eclip-own-pairs multi".split(),
        ),
        (*common, "--name", "siglip", "--siglip"),
        processes=2,
    )
    for name in ("global", "local", "accum", "stream", "siglip"):
        mixed = [int(n) for n in re.findall(r"mixed pairs (\d+)", launcher.log(name))]
        assert len(mixed) == (3 if name == "accum" else 9) and max(mixed) > 0, (name, mixed)
        if name in ("global", "local", "siglip"):
            assert min(mixed) == 0
        assert len(launcher.losses(name)) == len(mixed)
    assert "3 of 3 samples of --expert-data have the image of a sample" in launcher.log("stream")
