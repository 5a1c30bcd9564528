"""Synthetic images with several findings: true to the scene, each sentence with its own gaze.

Training on the sentence windows aligns each sentence with the position of its finding.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.data.check import check_entries, check_table
from openclip_eclip.data.sentence_windows import decode_windows, file_windows
from openclip_eclip.data.shards.tar_source import index_shard
from openclip_eclip.data.tables.csv_source import CsvColumns, read_csv_table
from openclip_eclip.objectives import Align
from openclip_eclip.objectives.align import AlignConfig
from openclip_eclip.phantom.anatomy import NORMAL
from openclip_eclip.phantom.batch import PhantomBatch
from openclip_eclip.phantom.chest import CHEST
from openclip_eclip.phantom.generate import generate
from openclip_eclip.prepare.__main__ import main
from openclip_eclip.towers.positions import encode_positions, similarity_map

CLASS_NAMES, FINDING_WORDS = CHEST.words.classes, CHEST.words.synonyms


@pytest.fixture(scope="module")
def batch() -> PhantomBatch:
    return generate(200, seed=3, split="train", annotated=0.1, findings=3)


def test_findings_lie_apart_and_are_described_in_order(batch: PhantomBatch) -> None:
    counts = []
    for i, findings in enumerate(batch.described):
        counts.append(len(findings))
        if batch.labels[i] == NORMAL:
            assert not findings
            assert (batch.boxes[i] == -1).all()
            continue
        # label and box of the sample are those of the finding dictated first
        assert findings[0].name == CLASS_NAMES[batch.labels[i]]
        assert findings[0].box == batch.boxes[i].tolist()
        # the sentences stand in the report in order of dictation, each of another class
        starts = [batch.reports[i].index(finding.sentence) for finding in findings]
        assert starts == sorted(starts)
        assert len({finding.name for finding in findings}) == len(findings)
        for finding in findings:
            synonyms = [word.lower() for word in FINDING_WORDS[finding.name]]
            assert any(word in finding.sentence.lower() for word in synonyms)
            assert finding.start < finding.end
        assert [f.start for f in findings] == sorted(f.start for f in findings)
        # the gaze of a sentence peaks at its own finding, and the sentence names the side of that
        for finding in findings:
            y, x = np.unravel_index(finding.heatmap.argmax(), finding.heatmap.shape)
            x0, y0, x1, y1 = finding.box
            assert x0 - 6 <= x < x1 + 6 and y0 - 6 <= y < y1 + 6
            assert finding.heatmap.max() == 1
            side = "right" if (x0 + x1) / 2 < 32 else "left"
            assert side in finding.sentence.lower()
        # boxes overlap by less than 4 pixels
        boxes = np.array([finding.box for finding in findings])
        for a in range(len(findings)):
            for b in range(a):
                gap_x = max(boxes[a, 0] - boxes[b, 2], boxes[b, 0] - boxes[a, 2])
                gap_y = max(boxes[a, 1] - boxes[b, 3], boxes[b, 1] - boxes[a, 3])
                assert max(gap_x, gap_y) > -4
        # the report denies none of its findings
        report = batch.reports[i].lower()
        for finding in findings:
            word = FINDING_WORDS[finding.name][0]
            assert f"no {word}" not in report
            assert f"{word} is not seen" not in report
    shares = np.bincount(counts, minlength=4) / len(counts)
    assert (shares[1:] > 0.1).all()


def test_further_findings_change_neither_first_finding_nor_patient(batch: PhantomBatch) -> None:
    single = generate(200, seed=3, split="train", annotated=0.1)
    np.testing.assert_array_equal(single.labels, batch.labels)
    np.testing.assert_array_equal(single.boxes, batch.boxes)
    without = [i for i, findings in enumerate(batch.described) if len(findings) < 2]
    np.testing.assert_array_equal(single.images[without], batch.images[without])
    few = generate(40, seed=3, split="train", annotated=0, findings=3)
    assert few.reports == batch.reports[:40]
    assert (few.images == batch.images[:40]).all()
    # where there are further findings, the image changes around them alone
    several = [i for i, findings in enumerate(batch.described) if len(findings) > 1]
    for i in several:
        near = np.zeros((64, 64), dtype=bool)
        for x0, y0, x1, y1 in (finding.box for finding in batch.described[i][1:]):
            near[max(y0 - 6, 0) : y1 + 6, max(x0 - 6, 0) : x1 + 6] = True
        changed = np.abs(single.images[i].astype(int) - batch.images[i]) > 12
        assert changed[near].any()
        assert not changed[~near].any()
    assert several
    assert not single.described


@pytest.mark.parametrize("format_", ["csv", "webdataset"])
def test_files_hold_the_findings_and_windows_of_generate(format_: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    flags = "--train 40 --test 20 --annotated 0.5 --size 32 --findings 2".split()
    assert main(["phantom", str(out), *flags, "--format", format_]) == 0
    gaze = pd.read_csv(out / "test_gaze.csv", keep_default_na=False)
    batch = generate(20, seed=0, split="test", annotated=0, size=32, findings=2)
    for name, findings in zip(gaze["windows"], batch.described):
        if not findings:
            assert name == ""
            continue
        windows = decode_windows(*file_windows(out / name), name, (32, 32))
        assert windows.sentences == [finding.sentence for finding in findings]
        heatmaps = [np.rint(255 * finding.heatmap) for finding in findings]
        np.testing.assert_array_equal(windows.heatmaps, heatmaps)
    if format_ == "csv":
        table = read_csv_table(out / "train.csv", CsvColumns())
        report = check_table(table, windows=True)
        facts = [json.loads(cell) for cell in pd.read_csv(out / "test.csv")["findings"]]
        assert "windows" not in pd.read_csv(out / "test.csv")
        assert all(table.heatmaps[i] for i, path in enumerate(table.windows) if path)
    else:
        entries = index_shard(out / "test-000000.tar")
        assert not any(entry.with_windows for entry in entries)
        facts = [json.loads(entry.read("json")["json"])["findings"] for entry in entries]
        report = check_entries(index_shard(out / "train-000000.tar"), windows=True)
    assert facts == [[finding.facts() for finding in findings] for findings in batch.described]
    assert not report.faults
    assert 5 < report.with_windows < report.annotated == 20
    assert json.loads((out / "recipe.json").read_text())["parameters"]["findings"] == 2


def test_zero_findings_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["phantom", str(tmp_path / "out"), "--findings", "0"]) == 2
    assert "findings 0: expected at least 1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---- alignment with sentence windows


def images_with_two_findings(count: int, split: str) -> tuple[torch.Tensor, list]:
    """Those of `count` images that show two findings, (N, 3, H, W), and their findings."""
    batch = generate(count, seed=0, split=split, annotated=0, findings=2)
    chosen = [i for i, findings in enumerate(batch.described) if len(findings) == 2]
    pixels = torch.from_numpy(batch.images[chosen]).float()[:, None].expand(-1, 3, -1, -1) / 64 - 2
    return pixels, [batch.described[i] for i in chosen]


def pointing(model: torch.nn.Module, pixels: torch.Tensor, described: list) -> tuple[float, float]:
    """Shares of sentences whose similarity peaks in a box.

    Returns the shares for the box of the own finding and for that of the other one.
    """
    hits = []
    for image, findings in zip(pixels, described):
        tokens = torch.tensor([[CLASS_NAMES.index(finding.name)] for finding in findings])
        with torch.no_grad():
            texts = model.encode_text(tokens, normalize=True)
            positions = encode_positions(model.visual, image[None]).expand(2, -1, -1, -1)
            maps = similarity_map(positions, texts)  # (2, h, w)
        maps = F.interpolate(
            maps[:, None], size=image.shape[-2:], mode="bilinear", align_corners=False
        )[:, 0].numpy()
        peaks = [np.unravel_index(values.argmax(), values.shape) for values in maps]
        boxes = [finding.box for finding in findings]
        inside = [  # sentence by box
            [x0 <= x < x1 and y0 <= y < y1 for x0, y0, x1, y1 in boxes] for y, x in peaks
        ]
        hits += [(inside[0][0], inside[0][1]), (inside[1][1], inside[1][0])]
    return tuple(np.mean(hits, axis=0))


def trained(kind: str, data: tuple[torch.Tensor, list], tmp_path: Path) -> torch.nn.Module:
    """Train a tower without attention pool for a short time, by the alignment term alone.

    `kind` is "none" (untrained), "own" or "swapped" (the two windows of an image exchanged). The
    text embedding is one fixed direction per class, so that seconds suffice; alignment holds the
    texts fixed in any case.
    """
    vision = {
        "image_size": 64,
        "layers": 2,
        "width": 64,
        "head_width": 32,
        "patch_size": 8,
        "pool_type": "avg",
    }
    text = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "pointing.json").write_text(
        json.dumps({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text})
    )
    open_clip.add_model_config(tmp_path / "pointing.json")
    torch.manual_seed(0)
    model = open_clip.create_model("pointing", output_dict=True, eclip_cfg={"processor": None})
    directions = torch.linalg.qr(torch.randn(32, 32))[0][: len(CLASS_NAMES)]
    model.encode_text = lambda tokens, normalize=False: directions[tokens[:, 0]]
    model.objectives = (Align(AlignConfig(windows=True)),)
    optimizer = torch.optim.AdamW(model.visual.parameters(), lr=2e-3)
    generator = torch.Generator().manual_seed(0)
    pixels, described = data
    none = torch.zeros(0, dtype=torch.int64)
    for _ in range(0 if kind == "none" else 130):
        chosen = torch.randint(len(described), (32,), generator=generator)
        findings = [finding for i in chosen.tolist() for finding in described[i]]
        heatmap = torch.from_numpy(np.stack([finding.heatmap for finding in findings]))
        heatmap = heatmap.unflatten(0, (-1, 2))  # (32, 2, H, W)
        if kind == "swapped":
            heatmap = heatmap.flip(1)
        batch = ExpertBatch(
            pixels[chosen],
            chosen,
            none,
            pixels[:0, :1],
            torch.zeros(0),
            none,
            pixels[:0],
            torch.zeros(0, 1, dtype=torch.int64),
            annotated_heatmap=pixels[:0, :1],
            sentence_row=torch.arange(32).repeat_interleave(2),
            sentence_text=torch.tensor([[CLASS_NAMES.index(f.name)] for f in findings]),
            sentence_heatmap=heatmap.flatten(0, 1)[:, None],
            draws={"align_weight": 1.0},
        )
        optimizer.zero_grad()
        model(batch, torch.zeros(32, 1, dtype=torch.int64))["align_error"].mean().backward()
        optimizer.step()
    return model


@pytest.mark.slow
def test_each_sentence_is_aligned_with_its_own_finding(tmp_path: Path) -> None:
    """On unseen images, a sentence points to its own finding more often than to the other one.

    It also does so more often than without training. With swapped windows the order is reversed.
    """
    data = images_with_two_findings(700, "train")
    pixels, described = images_with_two_findings(250, "test")
    scores = {
        kind: pointing(trained(kind, data, tmp_path), pixels, described)
        for kind in ("none", "own", "swapped")
    }
    own, other = scores["own"]
    assert own > other + 0.2, scores
    assert own > scores["none"][0] + 0.2, scores
    assert own > scores["swapped"][0] + 0.2, scores
    assert scores["swapped"][1] > scores["swapped"][0] + 0.2, scores
