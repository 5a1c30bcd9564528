"""Methods of Table 4 as flags: each is the right configuration and trains.

A meaningless combination is an error.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import BASIC, Launcher, write_table
from test_flag_checks import run

from openclip_eclip.batching.curriculum import Curriculum, draw_gate
from openclip_eclip.config import EClipConfig, UserError
from openclip_eclip.params import eclip_config, eclip_parser

STEADY = (  # no curriculum: the mean of the paper's, so annotated images are seen as often
    "--eclip-curriculum 0 0 0 0 0 0.2225"
)
ROWS = {  # docs/decisions/0027
    "base": "--method clip",
    "mask": f"--eclip-processor mask --eclip-no-mixup --eclip-priming-weight 0 {STEADY}",
    "cnn": f"--eclip-processor cnn --eclip-no-mixup --eclip-priming-weight 0 {STEADY}",
    "mha": f"--eclip-no-mixup --eclip-priming-weight 0 {STEADY}",
    "mha+mixup": f"--eclip-priming-weight 0 {STEADY}",
    "mha+mixup+curriculum": "--eclip-priming-weight 0",
    "random": "--eclip-placebo random",
    "eclip": "",
}


def config_of(flags: str) -> EClipConfig:
    return eclip_config(eclip_parser().parse_args(flags.split()), {})


@pytest.mark.parametrize(
    "row,processor,mixup,curriculum,priming",
    [
        ("mask", "mask", False, False, False),
        ("cnn", "cnn", False, False, False),
        ("mha", "mha", False, False, False),
        ("mha+mixup", "mha", True, False, False),
        ("mha+mixup+curriculum", "mha", True, True, False),
        ("random", "mha", True, True, True),
        ("eclip", "mha", True, True, True),
    ],
)
def test_methods_of_table_4_are_configurations(
    row: str, processor: str, mixup: bool, curriculum: bool, priming: bool
) -> None:
    config = config_of(ROWS[row])
    schedule = Curriculum(10_000, config.curriculum)
    values = {schedule.probability(step) for step in range(0, 10_000, 100)}
    draws = draw_gate(0, 3, range(50), 0.5, config.alpha, config.lam)
    assert config.processor.kind == processor
    assert (len(values) > 1, config.priming_weight > 0) == (curriculum, priming)
    assert (len(set(draws.lam.tolist())) > 1) == mixup and (mixup or draws.lam.max() == 0)
    assert draws.accepted.tolist() == draw_gate(0, 3, range(50), 0.5, 0.3).accepted.tolist()


def test_without_curriculum_the_number_of_views_is_equal() -> None:
    steady, paper = (
        Curriculum(10_000, config_of(ROWS[row]).curriculum) for row in ("mha", "eclip")
    )
    counts = [
        sum(schedule.probability(step) for step in range(10_000)) for schedule in (steady, paper)
    ]
    assert counts[0] == pytest.approx(counts[1], rel=1e-3)


def test_every_combination_of_options_is_a_configuration() -> None:
    """Priming without a curriculum: the cold start stays, the rest is constant."""
    config = config_of("--eclip-no-mixup --eclip-curriculum 0.1 0 0 0 0 0.25")
    schedule = Curriculum(1000, config.curriculum)
    assert schedule.is_priming(99)
    assert not schedule.is_priming(100)
    assert config.priming_weight == 0.1
    assert config.lam == 0
    assert [schedule.probability(step) for step in (99, 100, 999)] == [0, 0.25, 0.25]


@pytest.mark.parametrize(
    "flags,message",
    [
        ("--eclip-processor mask", "nothing to prime; add --eclip-priming-weight 0"),
        ("--eclip-processor mask --eclip-priming-weight 0.2", "priming weight 0.2"),
        ("--eclip-no-mixup --eclip-alpha 0.3", "no lambda to draw"),
    ],
)
def test_meaningless_combinations_are_errors(flags: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        run(tmp_path, *flags.split(), table=tmp_path / "never-read.csv")


@pytest.mark.slow
def test_methods_of_table_4_train(launcher: Launcher) -> None:
    """From the same weights over the same data no two methods have the same losses.

    The base is CLIP.
    """
    table = write_table(launcher.folder, 24, annotated=range(0, 24, 2))
    common = [*BASIC, "--train-data", table, "--batch-size", 8, "--epochs", 4]
    # in 12 steps something must be mixed
    rows = {row: flags.replace("0.2225", "1").split() for row, flags in ROWS.items()}
    paper = ["--eclip-curriculum", 0.1, 0.3, 0.4, 0.5, 1, 0.5]
    launcher.train(
        *[
            [
                *common,
                *(paper if "--eclip-curriculum" not in flags and row != "base" else []),
                *flags,
                "--name",
                row.replace("+", "-"),
            ]
            for row, flags in rows.items()
        ]
    )
    losses = {row: tuple(launcher.losses(row.replace("+", "-"))) for row in rows}
    assert len(set(losses.values())) == len(ROWS)
    assert all(len(result) == 12 for result in losses.values())
    assert "mean lambda 0.000" in launcher.log("mha")
    assert "mean lambda 0.000" not in launcher.log("mha-mixup")
