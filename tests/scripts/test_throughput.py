"""The throughput command: counted FLOPs, its table, and one run of each kind."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import open_clip
import pytest
import throughput


def write_config(folder: Path, tower: str = "tiny ViT") -> Path:
    width, vision, text = throughput.TOWERS[True][tower]
    path = folder / f"throughput-test-{tower.replace(' ', '-')}.json"
    path.write_text(json.dumps({"embed_dim": width, "vision_cfg": vision, "text_cfg": text}))
    return path


def test_flops_are_those_by_hand(tmp_path: Path) -> None:
    """Of a matrix product of (n, k) and (k, m): 2 n k m."""
    config = write_config(tmp_path)
    open_clip.add_model_config(config)

    def layers(count: int, tokens: int, width: int) -> int:
        return count * (2 * tokens * 12 * width**2 + 4 * tokens**2 * width)

    image, text = throughput.forward_flops(config)
    assert image == 2 * 64 * 3 * 8 * 8 * 64 + layers(2, 65, 64) + 2 * 64 * 32
    assert text == layers(1, 16, 32) + 2 * 32 * 32
    config = write_config(tmp_path, "tiny ResNet")
    open_clip.add_model_config(config)
    assert throughput.forward_flops(config)[0] > 0


def test_peaks_by_the_name_of_the_card() -> None:
    assert throughput.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert throughput.peak_of("NVIDIA H100 PCIe") == 756e12
    assert throughput.peak_of("NVIDIA L40S") == 362e12
    assert throughput.peak_of("NVIDIA GeForce GTX 1080") is None


def test_the_table_has_mfu_where_the_peak_is_known() -> None:
    row = {"tower": "T", "fast": True, "method": "open_clip", "images": 2e3, "waiting": 0.1}
    row |= {"GiB": 3.0, "flops": 9.89e10}
    args = argparse.Namespace(device="cuda", batch=8, workers=1, steps=4, skip=1, rounds=1)
    result = {"rows": [row, {**row, "method": "CLIP", "images": 1e3}], "scaling": []}
    result |= {"missing": ["T, eCLIP, round 1"], "machine": "NVIDIA H100 80GB HBM3"}
    page = throughput.page(args, result)
    assert "| `--torchcompile` | open_clip | 2000 | 1.000 | 20.0 % | 10.0 % |" in page
    assert "| `--fast` | CLIP | 1000 | 0.500 | 10.0 % |" in page
    assert "left out: T, eCLIP, round 1" in page and "missing" not in page
    page = throughput.page(argparse.Namespace(**{**vars(args), "device": "cpu"}), result)
    assert "GPU numbers are missing" in page.split("\n")[2]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["open_clip", "eCLIP, r = 0.5"])
def test_a_run_of_each_package(tmp_path: Path, method: str) -> None:
    args = argparse.Namespace(small=True, device="cpu", batch=4, steps=4, skip=1, workers=0)
    shards = throughput.write_shards(tmp_path / "shards", 0.5, 32, 1, 8)
    found = throughput.measure(args, write_config(tmp_path), method, shards, fast=True)
    assert found["images"] > 0 and 0 < found["waiting"] < 1 and found["GiB"] > 0
