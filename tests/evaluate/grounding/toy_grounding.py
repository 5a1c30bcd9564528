"""Images of squares, and a model that knows where they are."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from open_clip.model import _build_vision_tower
from PIL import Image
from torch import Tensor

from openclip_eclip.data.sentence_windows import encode_windows
from openclip_eclip.evaluate.__main__ import main
from openclip_eclip.evaluate.grounding import task
from openclip_eclip.evaluate.inputs.encoder import Encoder

SIDE, SQUARE = 64, 16
COLOURS = ("red", "green", "blue")


class ToyEncoder(Encoder):
    """Its text feature is the colour that the text names, or with `wrong` the next colour."""

    wrong = False

    def encode_texts(self, tokens: Tensor) -> Tensor:
        return torch.eye(3)[(tokens[:, 0] + self.wrong) % 3]


def toy_encoder(wrong: bool) -> Encoder:
    """A real ViT whose positions are the mean colours of their patches."""
    config = {"image_size": 32, "layers": 1, "width": 4, "head_width": 4, "patch_size": 8}
    tower = _build_vision_tower(3, config).eval()
    with torch.no_grad():
        for name, values in tower.named_parameters():
            values.fill_(1.0 if "ln" in name and name.endswith("weight") else 0.0)
        for channel in range(3):
            tower.conv1.weight[channel, channel] = 1 / 64
            tower.proj[channel, channel] = 1
    tower.preprocess_cfg = {"size": 32, "mean": (0, 0, 0), "std": (1, 1, 1)}

    def tokenizer(texts: list[str]) -> Tensor:
        return torch.tensor([[COLOURS.index(text.split()[0])] for text in texts])

    encoder = ToyEncoder(
        SimpleNamespace(visual=tower),
        lambda image: None,
        tokenizer,
        torch.device("cpu"),
        "fp32",
        {"model": "toy"},
    )
    encoder.wrong = wrong
    return encoder


def draw_squares(folder: Path) -> None:
    """Eight images of a red and a green square, and a phrase on a blue one that is not there.

    The red square is on the side that its phrase names; a patch of the tower covers each square.
    """
    rng, rows = np.random.default_rng(0), []
    for i in range(8):
        pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
        maps = []
        columns = rng.permutation(2) if i % 2 else rng.permutation(2) + 2
        for channel, column in enumerate(columns):
            row = rng.integers(0, 4)
            region = np.zeros((SIDE, SIDE))
            region[row * SQUARE : (row + 1) * SQUARE, column * SQUARE : (column + 1) * SQUARE] = 1
            pixels[..., channel] = 255 * region
            maps.append(region)
        side = "left" if i % 2 else "right"
        spoken = [f"red square on the {side}", "green square", "blue square"]
        nan = float("nan")
        text, arrays = encode_windows(
            [(words, nan, nan) for words in spoken], [*maps, np.zeros((SIDE, SIDE))]
        )
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.windows.json").write_bytes(text)
        (folder / f"{i}.windows.npz").write_bytes(arrays)
        rows.append((f"{i}.png", f"{i}.windows.json", i // 2))
    table = pd.DataFrame(rows, columns=["filepath", "windows", "person"])
    table[:6].to_csv(folder / "test.csv", index=False)
    table[6:].to_csv(folder / "val.csv", index=False)


def measured(
    squares: Path, out: Path, monkeypatch: pytest.MonkeyPatch, *flags: str, wrong: bool = False
) -> dict:
    """The result for test.csv of `squares`, or for the data that `flags` name."""
    monkeypatch.setattr(task, "read_encoder", lambda args: toy_encoder(wrong))
    common = ["grounding", "--model", "toy"]
    if "--annotations" not in flags:
        common += ["--data", str(squares / "test.csv")]
    assert main([*common, "--batch-size", "4", "--out", str(out), *flags]) == 0
    return json.loads((out / "result.json").read_text())
