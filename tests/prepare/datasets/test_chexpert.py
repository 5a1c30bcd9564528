"""A small CheXpert: traps of the table, splits, evaluation set, and the writer of all data sets."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import fast_python
from PIL import Image

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.chexpert import LABELS

EXTRA = ["Sex", "Age", "Frontal/Lateral", "AP/PA"]


def write_tree(root: Path, images: int = 12, root_name: str = "CheXpert-v1.0-small") -> Path:
    """Writes `images` patients with a frontal image each; the first also has a lateral image."""
    rng, rows = np.random.default_rng(0), []
    for i in range(images):
        for view in ("frontal", "lateral")[: 2 if i == 0 else 1]:
            path = f"train/patient{i:05d}/study1/view1_{view}.jpg"
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (70, 60), dtype=np.uint8)).save(root / path)
            labels = {name: "" for name in LABELS} | {
                LABELS[1 + i % 13]: "1.0",
                LABELS[1 + (i + 1) % 13]: "-1.0",
            }
            rows.append(
                {
                    "Path": f"{root_name}/{path}",
                    "Sex": "Female",
                    "Age": 60,
                    "Frontal/Lateral": view.title(),
                    "AP/PA": "AP",
                }
                | labels
            )
    pd.DataFrame(rows).to_csv(root / "train.csv", index=False)
    return root


def prepare(root: Path, out: Path, *flags: str) -> int:
    return main(
        [
            "chexpert",
            str(root),
            str(out),
            *("--evaluation", "none"),
            *("--size", "32"),
            *("--workers", "1"),
            *("--shard-size", "5"),
            *flags,
        ]
    )


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_shards_and_their_samples(tmp_path: Path) -> None:
    assert prepare(write_tree(tmp_path / "raw"), tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "sizes.json").read_text()) == {
        f"train-{i:06d}.tar": n for i, n in enumerate((5, 5, 2))
    }
    with tarfile.open(tmp_path / "out" / "train-000000.tar") as shard:
        names = shard.getnames()
        assert names[:3] == [
            f"patient00000_study1_view1_frontal.{e}" for e in ("jpg", "txt", "json")
        ]
        assert Image.open(shard.extractfile(names[0])).size == (32, 37)
        assert shard.extractfile(names[1]).read() == b"Findings: enlarged cardiomediastinum."
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["left_out"] == {"lateral view": 1} and manifest["facts"]["train patients"] == 12


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "webdataset"])
def test_parts_equal_the_whole_and_killed_runs_resume(tmp_path: Path, format: str) -> None:
    raw = write_tree(tmp_path / "raw")
    assert prepare(raw, tmp_path / "whole", "--format", format) == 0
    for part in ("1/2", "0/2"):
        assert prepare(raw, tmp_path / "parts", "--format", format, "--part", part) == 0
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    # as if killed before the chunk was done
    lost = [path for path in (tmp_path / "parts").rglob("train*000001*")]
    for path in lost:
        path.unlink()
    untouched = (tmp_path / "parts" / ".chunks" / "train-000000.json").stat().st_mtime_ns
    assert lost and prepare(raw, tmp_path / "parts", "--format", format) == 0
    assert files(tmp_path / "whole") == files(tmp_path / "parts")
    assert (tmp_path / "parts" / ".chunks" / "train-000000.json").stat().st_mtime_ns == untouched


@pytest.mark.slow
@pytest.mark.parametrize("format", ["csv", "webdataset"])
def test_sigkill_leaves_complete_chunks_and_the_next_run_resumes(
    tmp_path: Path, format: str
) -> None:
    """The command and its workers are killed after a few chunks; existing files are complete."""
    raw, out = write_tree(tmp_path / "raw", 400), tmp_path / "out"
    flags = [
        *("--evaluation", "none"),
        *("--size", "32"),
        *("--workers", "2"),
        *("--shard-size", "5"),
        *("--format", format),
    ]
    command = [
        sys.executable,
        "-m",
        "openclip_eclip.prepare",
        "chexpert",
        str(raw),
        str(out),
        *flags,
    ]
    run = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while run.poll() is None and len(list(out.glob(".chunks/train-*.json"))) < 3:
        pass
    os.killpg(run.pid, signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL and not (out / "manifest.json").exists(), (
        "it ended before the kill"
    )
    assert main(["chexpert", str(raw), str(tmp_path / "whole"), *flags]) == 0
    whole, left = (
        files(tmp_path / "whole"),
        {name: content for name, content in files(out).items() if not name.endswith(".partial")},
    )
    assert len(left) > 3 and all(whole[name] == content for name, content in left.items())
    kept = {path: path.stat().st_mtime_ns for path in out.glob(".chunks/train-*.json")}
    assert main(["chexpert", str(raw), str(out), *flags]) == 0
    assert {
        name: content for name, content in files(out).items() if not name.endswith(".partial")
    } == whole
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())


@pytest.mark.slow
def test_a_full_disk_leaves_no_broken_shard(tmp_path: Path) -> None:
    """A limit on file sizes simulates a full disk.

    The shard does not fit, nothing of it is left, and a second run resumes.
    """
    raw = write_tree(tmp_path / "raw")
    command = [
        "prepare",
        "chexpert",
        raw,
        tmp_path / "out",
        *("--evaluation", "none"),
        *("--size", "32"),
        *("--workers", "1"),
        *("--shard-size", "5"),
    ]
    program = (
        "import resource, sys; from openclip_eclip.prepare.__main__ import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); sys.exit(main(sys.argv[2:]))"
    )
    done = subprocess.run(
        [fast_python(), "-c", program, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 2 and "File too large" in done.stderr, done.stderr
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [
        tmp_path / "out" / ".chunks" / "settings.json"
    ]
    assert prepare(raw, tmp_path / "out") == 0 and prepare(raw, tmp_path / "whole") == 0
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_other_settings_or_other_files_in_out_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    assert prepare(raw, tmp_path / "out", "--part", "0/2") == 0
    assert prepare(raw, tmp_path / "out", "--quality", "50") == 2
    assert "other settings (quality)" in capsys.readouterr().err
    assert prepare(raw, tmp_path / "raw") == 2 and "holds other files" in capsys.readouterr().err


def test_missing_images_are_named_and_unreadable_ones_stop(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    (raw / "train/patient00003/study1/view1_frontal.jpg").unlink()
    assert prepare(raw, tmp_path / "a") == 0
    assert list(json.loads((tmp_path / "a" / "manifest.json").read_text())["skipped"]) == [
        "patient00003_study1_view1_frontal"
    ]
    (raw / "train/patient00004/study1/view1_frontal.jpg").write_bytes(b"no picture")
    assert prepare(raw, tmp_path / "b") == 2 and "patient00004" in capsys.readouterr().err
    assert not (tmp_path / "b" / "train-000000.tar").exists()
    assert prepare(raw, tmp_path / "b", "--on-bad-sample", "skip") == 0
    assert json.loads((tmp_path / "b" / "sizes.json").read_text())["train-000000.tar"] == 3


@pytest.mark.parametrize(
    "change,message",
    [
        (
            lambda t: t.assign(Path=t.Path.str.replace("train/", "other/")),
            "row 1, column 'Path': 'CheXpert-v1.0-small/other/",
        ),
        (lambda t: t.assign(Edema="2"), "row 1, column 'Edema': '2'"),
        (lambda t: t.drop(columns="Edema"), "no column 'Edema'"),
        (lambda t: pd.concat([t, t.tail(1)]), "row 14, column 'Path'.*occurs twice"),
    ],
)
def test_bad_tables_are_errors(
    tmp_path: Path, change, message: str, capsys: pytest.CaptureFixture
) -> None:
    raw = write_tree(tmp_path / "raw")
    change(pd.read_csv(raw / "train.csv", dtype=str)).to_csv(raw / "train.csv", index=False)
    assert prepare(raw, tmp_path / "out") == 2
    assert re.search(message, capsys.readouterr().err)


def test_dry_run_needs_no_images(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw = write_tree(tmp_path / "raw")
    (raw / "train").rename(raw / "elsewhere")
    assert prepare(raw, tmp_path / "out", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "train rows: 13" in out
    assert "split train: 12 samples" in out
    assert not (tmp_path / "out").exists()


def test_evaluation_set_holds_its_patients_out(tmp_path: Path) -> None:
    """The set has 200 exclusive frontal images of each class; their patients leave train."""
    from openclip_eclip.prepare.datasets.chexpert import COMPETITION, exclusive
    from openclip_eclip.prepare.evaluation import choose_per_class
    from openclip_eclip.prepare.plan import Item

    items = [
        Item(
            f"k{i}",
            Path(f"{i}_frontal.jpg"),
            "",
            columns={"patient": f"p{i // 2}", COMPETITION[i % 5]: 1.0},
        )
        for i in range(40)
    ]
    items += [
        Item(
            "u", Path("u_frontal.jpg"), "", columns={"patient": "u", "Edema": 1.0, "Fracture": -1.0}
        ),
        Item("l", Path("l_lateral.jpg"), "", columns={"patient": "l", "Edema": 1.0}),
        Item(
            "n",
            Path("n_frontal.jpg"),
            "",
            columns={"patient": "n", "Edema": 1.0, "No Finding": 1.0, "Fracture": 0.0},
        ),
    ]
    candidates = exclusive(items, COMPETITION)
    assert [len(candidates[name]) for name in COMPETITION] == [8, 8, 8, 9, 8]
    chosen = choose_per_class(candidates, 3, seed=1, group="patient")
    assert len({item.columns["patient"] for item in chosen}) == 15 == len(chosen)
    assert [item.columns["label"] for item in chosen] == [
        name for name in COMPETITION for _ in range(3)
    ]
    assert [i.key for i in chosen] == [
        i.key
        for i in choose_per_class(
            {k: v[::-1] for k, v in candidates.items()}, 3, seed=1, group="patient"
        )
    ]
    with pytest.raises(ValueError, match="class .*: 8 images fit the rule, 9 are needed"):
        choose_per_class(candidates, 9, seed=1)
