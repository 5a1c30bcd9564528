"""The contact sheet: which samples are drawn, and what is written above them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import encode_array

from openclip_eclip.data import figures
from openclip_eclip.data.check import main as check
from openclip_eclip.data.sheet_samples import SHEET, TRIES, spread


def read(i: int) -> tuple[bytes, bytes, str, str]:
    return str(i // 5).encode(), b"", str(i), ""  # five texts for an image


def test_samples_are_spread_and_each_is_of_another_image() -> None:
    names = [int(sample[2]) for sample in spread(1000, read, 12)]
    assert names == sorted(names) and len({i // 5 for i in names}) == 12
    gaps = np.diff([0, *names, 1000])
    assert gaps.max() <= 2 * 1000 / 12
    assert [int(sample[2]) for sample in spread(1000, read, 12)] == names
    assert [int(sample[2]) for sample in spread(11, read, 12)] == [0, 8, 10]  # 3 images
    assert spread(0, read, 12) == [] and spread(9, read, 0) == []
    # a table with one image does not cost a look at all its rows
    looked: list[int] = []
    assert len(spread(10**4, lambda i: (looked.append(i), read(0))[1], 2)) == 1
    assert len(looked) == 2 * TRIES


def write(folder: Path, name: str, count: int) -> str:
    """A table of annotated images, each in two rows under two names."""
    folder.mkdir(exist_ok=True)
    rows = ["filepath,title,heatmap"]
    for i in range(count):
        stem = f"{name}-{i // 2}-with-a-name-that-is-far-too-long-{i}"
        image = np.full((20, 20, 3), i // 2, np.uint8)
        (folder / f"{stem}.png").write_bytes(encode_array(image, ".png"))
        heatmap = encode_array(np.eye(20) * (1 + i // 2), ".npz")
        (folder / f"{stem}.npz").write_bytes(heatmap)
        rows.append(f"{stem}.png,a {name} of many words that do not fit above it,{stem}.npz")
    (folder / f"{name}.csv").write_text("\n".join(rows))
    return str(folder / f"{name}.csv")


@pytest.mark.slow
def test_each_table_has_its_share_and_titles_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        figures, "_overlay", lambda axis, image, values, title: titles.append(title)
    )
    tables = [write(tmp_path, name, 60) for name in ("train", "valid")]
    assert check([*tables, "--sheet", str(tmp_path / "s.png")]) == 0
    assert [title[:5] for title in titles] == ["train"] * 6 + ["valid"] * 6
    assert len({title.split("-")[1] for title in titles[:6]}) == 6
    name, text = titles[0].split("\n")
    assert name.startswith("train-0-with-a") and "…" in name and name.endswith("-0.npz")
    assert text == "a train of many words that do not …"
    assert max(len(line) for title in titles for line in title.split("\n")) <= figures.LINE
    titles.clear()
    assert check([write(tmp_path, "few", 4), tables[0], "--sheet", str(tmp_path / "s.png")]) == 0
    # what the first cannot fill, the second does
    assert [title[:5] for title in titles] == ["few-0", "few-1"] + ["train"] * (SHEET - 2)
