"""`openclip-eclip`: help on one screen, a fast start, every command, training under torchrun."""

from __future__ import annotations

import configparser
import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, fast_python, write_table

import openclip_eclip
import openclip_eclip_cli as cli
from openclip_eclip.params import eclip_parser


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["openclip-eclip", *words])
    return cli.main()


def test_entry_point_is_the_one_of_setup_cfg() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    name, target = settings["options.entry_points"]["console_scripts"].strip().split(" = ")
    module, function = target.split(":")
    assert name == "openclip-eclip"
    assert getattr(importlib.import_module(module), function) is cli.main


def test_help_fits_a_screen_and_groups_commands(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for words in ((), ("--help",), ("-h",)):
        assert call(monkeypatch, *words) == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) < 24 and max(map(len, lines)) <= 80  # the prompt takes one line
    headings = [line.removesuffix(":") for line in lines if line.removesuffix(":") in cli.GROUPS]
    assert headings == ["Data", "Training", "Evaluation"]
    for command in ("train", "check", "prepare", "evaluate", "benchmark", "report", "export"):
        assert any(line.startswith(f"  {command} ") for line in lines), command


def test_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"openclip-eclip {openclip_eclip.__version__}\n"


def test_unknown_command_names_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, "trian") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: 'trian' is not a command; expected one of prepare, check,")
    assert error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_start_does_not_load_torch(flag: str) -> None:
    """In an empty process: the real Python, without the fork server of the tests."""
    program = (
        f"import sys, openclip_eclip_cli as cli; sys.argv = ['openclip-eclip', {flag!r}]\n"
        "cli.main()\n"
        "sys.exit(bool({'torch', 'numpy', 'open_clip', 'openclip_eclip'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT, timeout=60)


def test_every_command_has_a_module() -> None:
    for module in cli.COMMANDS.values():
        assert importlib.util.find_spec(module), module


@pytest.mark.slow
@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_of_every_command(command: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [fast_python(), "-m", "openclip_eclip", command, "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"openclip-eclip {command}" in done.stdout


def test_flags_of_training_are_grouped_by_purpose() -> None:
    groups = [group for group in eclip_parser()._action_groups if group._group_actions]
    assert [group.title for group in groups][:8] == [
        "what is trained",
        "data",
        "texts that repeat in a batch",
        "placebo, to test whether the heatmaps matter",
        "speed",
        "runs and checkpoints",
        "the best epoch, and the end of training",
        "--method align, --recipe eclip-plus",
    ]
    assert all(len(group._group_actions) <= 9 for group in groups)


@pytest.mark.slow
def test_help_of_training_shows_our_flags_before_those_of_open_clip(tmp_path: Path) -> None:
    done = subprocess.run(
        [fast_python(), "-m", "openclip_eclip", "train", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.startswith("openclip-eclip train --model NAME --train-data")
    ours, own = done.stdout.index("  --recipe {"), done.stdout.index("\nFlags of open_clip:")
    assert ours < own < done.stdout.index("  --train-data")


@pytest.mark.slow
@pytest.mark.parametrize("words", [["openclip_eclip", "train"], ["openclip_eclip.train"]])
def test_both_names_of_training_run_under_torchrun(words: list[str], tmp_path: Path) -> None:
    """Two ranks, one epoch of eight images."""
    table = write_table(tmp_path / "data", 8, annotated=(1, 5))
    flags = [
        *("--model", f"local-dir:{ROOT / 'examples' / 'configs' / 'tiny'}"),
        *("--train-data", table, "--batch-size", 2, "--epochs", 1, "--warmup", 1),
        *("--precision", "fp32", "--workers", 0, "--force-context-length", 16),
        *("--runs-dir", "runs", "--name", "two"),
    ]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"]
    done = subprocess.run(
        [fast_python(), *torchrun, *words, *map(str, flags)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "runs" / "two" / "checkpoints" / "epoch_1.pt").is_file()
