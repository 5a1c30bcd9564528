"""The overlap of data sets: ids, image bytes, similar images and report texts.

Sets are tables, shards, prepared folders and raw tables.
"""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter

from openclip_eclip.data import overlap
from openclip_eclip.data.overlap import compare, main
from openclip_eclip.data.overlap_read import Contents, normalise, perceptual_hash
from openclip_eclip.prepare.command import refuse_leaks
from openclip_eclip.prepare.plan import EvaluationSet, Item, Plan

LONG = (
    "There is a small right pleural effusion with adjacent atelectasis; the heart is not enlarged,"
    " case number"
)


def picture(seed: int, side: int = 96) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    return (
        Image.fromarray(noise)
        .filter(ImageFilter.GaussianBlur(9))
        .point(lambda v: min(255, max(0, (v - 100) * 4)))
    )


def rows(start: int, stop: int) -> list[dict]:
    return [
        {
            "seed": i,
            "title": f"{LONG} {i}.",
            "patient": f"p{10000000 + i}",
            "study": f"s{50000000 + i}",
        }
        for i in range(start, stop)
    ]


def write_table(path: Path, samples: list[dict]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for sample in samples:
        sample = sample | {"filepath": f"{path.stem}-{sample['seed']}.png"}
        sample.get("picture", picture(sample["seed"])).save(path.parent / sample["filepath"])
    pd.DataFrame(
        [
            {k: v for k, v in s.items() if k != "picture"}
            | {"filepath": f"{path.stem}-{s['seed']}.png"}
            for s in samples
        ]
    ).to_csv(path, index=False)
    return path


def write_shard(path: Path, samples: list[dict]) -> Path:
    with tarfile.open(path, "w") as shard:
        for sample in samples:
            buffer = io.BytesIO()
            picture(sample["seed"]).save(buffer, "JPEG", quality=90)
            columns = {name: sample[name] for name in ("patient", "study")}
            for extension, content in (
                ("jpg", buffer.getvalue()),
                ("txt", sample["title"].encode()),
                ("json", json.dumps(columns).encode()),
            ):
                info = tarfile.TarInfo(f"k{sample['seed']}.{extension}")
                info.size = len(content)
                shard.addfile(info, io.BytesIO(content))
    return path


def counts(out: str) -> list[int]:
    """The shared patients, studies, images of the same bytes, similar images, and reports."""
    lines = [line for line in out.splitlines() if line.startswith("  shared ")]
    return [int(line.rpartition(":")[2]) for line in lines]


def test_disjoint_sets_share_nothing(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    train = write_table(tmp_path / "a.csv", rows(0, 40))
    test = write_table(tmp_path / "b.csv", rows(40, 80))
    assert main([str(train), str(test)]) == 0
    out = capsys.readouterr().out
    assert counts(out) == [0] * 5
    assert "40 samples, 40 patients, 40 studies, 40 images, 40 reports" in out


@pytest.mark.parametrize(
    "change,expected",
    [
        ({"patient": "10000003"}, [1, 0, 0, 0, 0]),  # p10000003 in MIMIC's other spelling
        ({"study": "s50000004"}, [0, 1, 0, 0, 0]),
        ({"picture": picture(5)}, [0, 0, 1, 1, 0]),
        ({"picture": picture(5).resize((71, 71)).point(lambda v: v * 0.9 + 5)}, [0, 0, 0, 1, 0]),
        ({"title": LONG.upper().replace(";", " -\n") + " 6"}, [0, 0, 0, 0, 1]),
    ],
)
def test_each_kind_of_leak_is_found_and_named(
    tmp_path: Path, change: dict, expected: list[int], capsys: pytest.CaptureFixture
) -> None:
    train = write_table(tmp_path / "a.csv", rows(0, 10))
    test = write_table(
        tmp_path / "b.csv", [*rows(20, 29), *({**row, **change} for row in rows(29, 30))]
    )
    assert main([str(train), str(test)]) == 1
    out = capsys.readouterr().out
    assert counts(out) == expected
    assert f"{test}, row 10" in out and f"{train}, row" in out


def test_shards_are_compared_with_several_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for i in range(2):
        write_shard(tmp_path / f"train-{i:06d}.tar", rows(5 * i, 5 * i + 5))
    table = write_table(tmp_path / "b.csv", rows(9, 12))
    clean = write_table(tmp_path / "c.csv", rows(20, 22))
    train = str(tmp_path / "train-{000000..000001}.tar")
    assert main([train, str(clean), str(table)]) == 1
    # the shards hold JPEGs of the same images: other bytes, but similar images
    assert counts(capsys.readouterr().out) == [0] * 5 + [1, 1, 0, 1, 1]
    assert main([train, str(clean)]) == 0
    capsys.readouterr()
    assert main([train, str(table), "--compare", "studies"]) == 1
    assert counts(capsys.readouterr().out) == [1]


def test_a_prepared_folder_is_compared_with_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    write_shard(tmp_path / "train-000000.tar", rows(0, 5))
    write_shard(tmp_path / "test-000000.tar", rows(5, 10))
    assert main([str(tmp_path)]) == 0
    assert "(train): 5 samples" in capsys.readouterr().out
    write_table(tmp_path / "set.csv", rows(4, 6))
    assert main([str(tmp_path)]) == 1
    assert counts(capsys.readouterr().out)[:2] == [1, 1]
    assert main([str(tmp_path / "set.csv")]) == 2
    assert "one set" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert "none of" in capsys.readouterr().err


def test_ids_of_raw_tables_without_images_are_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Paths of CheXpert, and numbers of NIH with and without zeros; missing images are counted."""
    (tmp_path / "nih.csv").write_text("Image Index,Patient ID\n00000012_000.png,12\n")
    (tmp_path / "prepared.csv").write_text("filepath,title,patient\nx.jpg,No finding.,00000012\n")
    assert main([str(tmp_path / "nih.csv"), str(tmp_path / "prepared.csv")]) == 1
    out = capsys.readouterr().out
    assert counts(out) == [1, 0, 0, 0, 0]
    assert "1 image not found" in out
    (tmp_path / "a.csv").write_text("Path\nCheXpert-v1.0/train/patient00001/study1/v.jpg\n")
    (tmp_path / "b.csv").write_text("Path\ntrain/patient00001/study2/v.jpg\n")
    (tmp_path / "c.csv").write_text("Path\ntrain/patient00002/study1/v.jpg\n")
    assert main([str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), str(tmp_path / "c.csv")]) == 1
    # study1 of another patient is another study
    assert counts(capsys.readouterr().out) == [1, 0, 0, 0, 0] + [0] * 5
    (tmp_path / "d.csv").write_text("a,b\n1,2\n")
    assert main([str(tmp_path / "a.csv"), str(tmp_path / "d.csv")]) == 2
    assert "expected one of" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text,repeated",
    [
        (
            (
                "Findings: edema, pleural effusion, atelectasis, cardiomegaly, mass, nodule,"
                " hernia, fibrosis, fracture, consolidation, pneumonia, emphysema."
            ),
            False,
        ),
        ("No acute disease.", False),
        (LONG, True),
    ],
)
def test_label_texts_short_texts_and_templates_are_no_shared_reports(
    tmp_path: Path, text: str, repeated: bool, capsys: pytest.CaptureFixture
) -> None:
    train = [{**row, "title": text} for row in rows(0, 2 if repeated else 1)]
    paths = [
        str(write_table(tmp_path / "a.csv", train)),
        str(write_table(tmp_path / "b.csv", [{**row, "title": text} for row in rows(5, 6)])),
    ]
    assert main(paths) == 0
    assert counts(capsys.readouterr().out)[-1] == 0


def test_images_of_equal_hash_but_other_content_are_not_similar(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A straight and a curved ramp both rise from block to block, but the images differ."""
    ramp = np.tile(np.linspace(0, 255, 90), (90, 1))
    straight, curved = (
        Image.fromarray(values.astype(np.uint8))
        for values in (ramp, 60 * ramp / 255 + 195 * (ramp / 255) ** 3)
    )
    assert np.array_equal(perceptual_hash(straight)[0], perceptual_hash(curved)[0])
    paths = [
        str(write_table(tmp_path / f"{name}.csv", [{**rows(i, i + 1)[0], "picture": image}]))
        for i, (name, image) in enumerate((("a", straight), ("b", curved)))
    ]
    assert main(paths) == 0
    assert counts(capsys.readouterr().out)[3] == 0


def test_the_size_of_blocks_does_not_change_the_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve images, two of them twice, against seven of them and three others.

    Every pair is counted once and names its two images.
    """
    train, other = Contents("one"), Contents("other")
    for contents, seeds in ((train, [*range(10), 3, 4]), (other, [*range(3, 10), 20, 21, 22])):
        for number, seed in enumerate(seeds):
            fingerprint, thumbnail = perceptual_hash(picture(seed))
            contents.image_names.append(f"{contents.name} {number}: {seed}")
            contents._hashes.append(fingerprint)
            contents._thumbnails.append(thumbnail)
    in_one_block = compare(train, other, ["images"])[1]
    assert in_one_block.count == 9
    assert in_one_block.examples[0] == ("one 3: 3", "other 0: 3")
    monkeypatch.setattr(overlap, "BLOCK", 20)  # three rows of twelve
    monkeypatch.setattr(overlap, "CANDIDATES", 2)
    assert compare(train, other, ["images"])[1] == in_one_block


def test_blank_images_are_similar_to_none() -> None:
    """A constant thumbnail correlates with none; the hash depends on gradients, not brightness."""
    from openclip_eclip.data.overlap import _standardised

    assert not _standardised(np.full((1, 32, 32), 7, dtype=np.uint8)).any()
    bright, dark = picture(1), picture(1).point(lambda v: v // 2)
    assert np.unpackbits(perceptual_hash(bright)[0] ^ perceptual_hash(dark)[0]).sum() <= 8
    ramp = Image.fromarray(np.tile(np.arange(0, 180, 2, dtype=np.uint8), (90, 1)))
    falling = ramp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert (perceptual_hash(ramp)[0] == 255).all()
    assert (perceptual_hash(falling)[0] == 0).all()
    # black after JPEG compression
    border = np.tile(np.array([0, 2, 1, 2, 0, 1, 2, 0, 2], dtype=np.uint8).repeat(10), (80, 1))
    assert not perceptual_hash(Image.fromarray(border))[0].any()
    assert normalise(" The heart,\n is X-large. ") == "the heart is x large"


def plan_with(splits: dict[str, str], evaluation: dict[str, str]) -> Plan:
    def items(patients: str) -> list[Item]:
        return [Item(p, Path("x"), "text", columns={"patient": p}) for p in patients]

    return Plan(
        "set",
        {name: items(p) for name, p in splits.items()},
        {name: EvaluationSet(items(p), [], "") for name, p in evaluation.items()},
    )


def test_shared_patients_are_an_error_of_prepare() -> None:
    refuse_leaks(plan_with({"train": "ab", "valid": "c", "test": "d"}, {"set": "d"}))
    refuse_leaks(plan_with({"report-train": "ab", "report-test": "c"}, {"openi-5": "abc"}))
    for splits, evaluation, message in (
        ({"train": "ab", "test": "b"}, {}, "both in train and in test, such as b"),
        ({"train": "ab"}, {"set": "xa"}, "both in train and in set, such as a"),
        ({"report-train": "ab", "report-test": "b"}, {}, "both in report-train and in report-test"),
    ):
        with pytest.raises(ValueError, match=message):
            refuse_leaks(plan_with(splits, evaluation))
