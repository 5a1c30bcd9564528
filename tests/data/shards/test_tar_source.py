"""Shards are read by the rules of webdataset, in the check and in training.

What webdataset would skip silently is a fault.
"""

from __future__ import annotations

import argparse
import gzip
import io
import pickle
import random
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import open_clip_train.data as upstream
import open_clip_train.main as host
import pytest
from conftest import BASIC, write_shard
from open_clip.transform import image_transform
from PIL import Image

from openclip_eclip.config import DataError
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.joint_transform import JointTransform
from openclip_eclip.data.shards.stream import ForwardReader, read_shards
from openclip_eclip.data.shards.tar_source import index_shard, open_shard, walk_shard
from openclip_eclip.data.shards.walk import place_of, walk_samples
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from training_patches import release
from training_patches.shard_flags import local_shards
from training_patches.train_data import TrainSource, train_source
from training_patches.val_data import val_source


def picture(suffix: str = "jpg", size: int = 16, value: int | None = None) -> bytes:
    """A noisy colour image, or a grey one of one value and a bright corner."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(size).integers(0, 256, (size, size, 3), dtype=np.uint8)
    if value is not None:
        pixels = np.full((size, size), value, np.uint8)
        pixels[:3, :4] = 255
    Image.fromarray(pixels).save(stream, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    return stream.getvalue()


JPG, MAP = picture(), picture("png", value=9)


def members(
    count: int, annotated: Callable[[int], bool] = lambda i: i % 2 == 0, first: int = 0
) -> dict[str, bytes]:
    """The members of `count` samples."""
    content = {}
    for i in range(first, first + count):
        content |= {f"{i:04d}.jpg": JPG, f"{i:04d}.txt": f"finding {i}".encode()}
        content |= {f"{i:04d}.heatmap.png": MAP} if annotated(i) else {}
    return content


def arguments(*flags: object) -> argparse.Namespace:
    patches = release().Patches()
    patches.originals = {"parse_args": host.parse_args}
    args = patches.parse_args([str(flag) for flag in (*BASIC, "--epochs", 2, *flags)])
    args.rank, args.world_size, args.distributed = 0, 1, False
    return args


def source(path: object, *flags: object, heatmaps: bool = True) -> TrainSource:
    transform = JointTransform(image_transform(32, is_train=True), 0.0)
    args = arguments("--train-data", path, "--batch-size", 2, *flags)
    return train_source(args, transform, open_clip.get_tokenizer("tiny"), 0, heatmaps=heatmaps)


def validation(path: object, *flags: object) -> list:
    args = arguments("--val-data", path, "--batch-size", 2, *flags)
    transform, tokenizer = image_transform(32, is_train=False), open_clip.get_tokenizer("tiny")
    return list(val_source(args, transform, tokenizer).dataloader)


# ---- the same samples in the same order as webdataset

ODD = [
    *("a", "b", "c/a", "./d", "../e", "/abs", "deep/er/f", "x y", "größe", "k" * 120),
    *("dir.with.dots/g", "p" * 90 + "/" + "q" * 90, "__h", "i__"),
]
SUFFIXES = [
    *("jpg", "JPG", "txt", "Txt", "heatmap.png", "heatmap.npy", "json"),
    *("a.b.c.d", "cls", "seg.png", "_x", ""),
]


def odd_archive(path: Path, seed: int) -> None:
    """Write an archive with random names, orders, formats and kinds of members."""
    rng = random.Random(seed)
    layout = rng.choice([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    keys = [key for key in ODD if layout != tarfile.USTAR_FORMAT or len(key) < 100]
    headers = (
        {"comment": "for all"} if layout == tarfile.PAX_FORMAT and rng.random() < 0.3 else None
    )
    with tarfile.open(path, "w", format=layout, pax_headers=headers) as archive:
        for key in [rng.choice(keys) for _ in range(rng.randint(1, 12))]:
            for suffix in rng.sample(SUFFIXES, rng.randint(1, 5)):
                info = tarfile.TarInfo(f"{key}.{suffix}")
                content = rng.randbytes(rng.choice([0, 1, 511, 512, 513, 3000]))
                info.size, info.mtime = len(content), rng.choice([0, 1.5])
                if layout == tarfile.PAX_FORMAT and rng.random() < 0.2:
                    info.pax_headers = {"SCHILY.xattr.user.note": "a\nb=c", "comment": "8 size=3"}
                archive.addfile(info, io.BytesIO(content))
        for name in rng.sample(
            ["__meta__", "__a__/b.txt", "noext", ".hidden.txt", "._a.jpg", "folder"], 3
        ):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE if name == "folder" else tarfile.REGTYPE
            archive.addfile(info)


def webdataset_samples(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    """(key, members) of the samples as open_clip's own pipeline reads them."""
    samples = upstream.tarfile_to_samples_nothrow(
        iter([{"url": str(path)}]), handler=lambda error: pytest.fail(repr(error))
    )
    return [
        (
            sample["__key__"],
            {name: value for name, value in sample.items() if name not in ("__key__", "__url__")},
        )
        for sample in samples
    ]


@pytest.mark.parametrize(
    "seeds", [range(start, start + 40) for start in range(0, 160, 40)], ids=str
)
def test_index_and_training_read_the_samples_of_webdataset(seeds: range, tmp_path: Path) -> None:
    kinds = set()
    for seed in seeds:
        path = tmp_path / f"{seed}.tar"
        odd_archive(path, seed)
        expected = webdataset_samples(path)
        entries = index_shard(path)
        assert [(entry.key, entry.read()) for entry in entries] == expected, seed
        for url in (str(path), f"pipe:cat '{path}'", f"pipe:gzip -c '{path}'"):
            streamed = list(read_shards([{"url": url}], skip_bad=False))
            members_read = [
                (sample["__key__"], {name for name in sample if not name.startswith("__")})
                for sample in streamed
            ]
            assert members_read == [(key, set(content)) for key, content in expected], (seed, url)
            for sample, (_, content) in zip(streamed, expected):
                for name in {"jpg", "txt", "heatmap.npy"} & set(content):
                    assert sample[name] == content[name]
            if seed % 20:
                break
        kinds |= {entry.faults[0][1][:12] for entry in entries if entry.faults}
    assert len(kinds) == 2  # a member twice, and a key in several parts


@pytest.mark.parametrize("field", ["hdrcharset", "path", "comment"])
def test_a_stream_seeks_back_over_the_pax_fields_before_a_header(
    field: str, tmp_path: Path
) -> None:
    """The standard library reads such a header a second time, from before its fields."""
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in members(3).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            value = {"hdrcharset": "BINARY", "path": name}.get(field, "x" * 3000)
            info.pax_headers = {field: value}
            folder = tarfile.TarInfo(f"folder-{name}")
            folder.type, folder.mtime = tarfile.DIRTYPE, 1.5
            archive.addfile(folder)
            archive.addfile(info, io.BytesIO(content))
    expected = list(read_shards([{"url": str(path)}], skip_bad=False))
    streamed = list(read_shards([{"url": f"pipe:cat '{path}'"}], skip_bad=False))
    assert len(expected) == len(streamed) == 3
    for from_pipe, from_file in zip(streamed, expected):
        assert {**from_pipe, "__url__": ""} == {**from_file, "__url__": ""}
    with open(path, "rb") as file:
        offsets = [sample.members for sample in walk_samples(ForwardReader(file), None, place_of)]
    assert offsets == [entry.members for entry in index_shard(path)]


# ---- damage


def whole(count: int = 6) -> bytes:
    """An undamaged archive of `count` samples."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members(count).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def headers(data: bytes) -> list[int]:
    """The offset of each header."""
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [member.offset for member in archive]


def flipped(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :]


def tail(data: bytes) -> int:
    """The offset of the end marker."""
    return len(data.rstrip(b"\0")) + (-len(data.rstrip(b"\0"))) % 512


DAMAGE = {  # name -> (damage to an archive, message, samples left)
    "in-a-member": (lambda data: data[: headers(data)[8] + 600], "cut off in the member '0003", 2),
    "in-a-header": (lambda data: data[: headers(data)[9] + 100], "no end marker|cut off", 3),
    "between-samples": (
        lambda data: data[: headers(data)[5]],
        "no end marker at byte .* its last samples are missing",
        1,
    ),
    "no-end-marker": (lambda data: data[: tail(data)], "no end marker", 5),
    "name-flipped": (
        lambda data: flipped(data, headers(data)[5] + 2),
        "a damaged header at byte",
        1,
    ),
    "size-flipped": (
        lambda data: flipped(data, headers(data)[5] + 130),
        "a damaged header at byte",
        1,
    ),
    "header-of-noise": (
        lambda data: data[: headers(data)[5]] + b"\xa7" * 512 + data[headers(data)[5] + 512 :],
        "a damaged header",
        1,
    ),
    "another-archive": (
        lambda data: data + whole(4),
        "another archive begins at byte .* one by one",
        6,
    ),
    "other-data": (lambda data: data + b"<html>not found</html>", "other data after the end", 6),
    "gzip": (gzip.compress, r"compressed \(gzip\); shards must be uncompressed", 0),
    "empty-file": (lambda data: b"", "an empty file", 0),
    "no-archive": (lambda data: b"<html>" * 400, "a damaged header at byte 0", 0),
    "short": (lambda data: b"abc", "3 bytes; expected a tar archive", 0),
    "no-sample": (lambda data: bytes(10240), "no sample in it", 0),
}


@pytest.mark.parametrize("damage,message,left", DAMAGE.values(), ids=DAMAGE)
def test_damage_is_a_fault_and_the_samples_before_it_are_indexed(
    damage: Callable, message: str, left: int, tmp_path: Path
) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(damage(whole()))
    with pytest.raises(DataError, match=f"a.tar: .*({message})"):
        index_shard(path)
    with open_shard(path) as file:
        entries, damage_message = walk_shard(path, file)
    assert damage_message
    assert [entry.key for entry in entries] == [f"{i:04d}" for i in range(left)]
    if left:
        streamed = list(read_shards([{"url": str(path)}], skip_bad=True))
        assert [sample["__key__"] for sample in streamed] == [entry.key for entry in entries]
    if message != "no sample in it":
        with pytest.raises(DataError, match="a.tar"):
            list(read_shards([{"url": str(path)}], skip_bad=False))


def test_training_on_a_damaged_shard_stops_or_skips_the_rest(tmp_path: Path) -> None:
    data = whole(8)
    (tmp_path / "a.tar").write_bytes(data)
    (tmp_path / "b.tar").write_bytes(data[: headers(data)[10]])
    with pytest.raises(DataError, match="b.tar, archive: no end marker"):
        source(f"{tmp_path}/{{a,b}}.tar")
    data_source = source(f"{tmp_path}/{{a,b}}.tar", "--on-bad-sample", "skip")
    assert data_source.total == 8 + 3 and len(data_source.names) == 4 + 2
    assert sum(len(batch) for batch in data_source.info.dataloader) == 12


@pytest.mark.parametrize(
    "command", ["false", "cat /nonexistent", "head -c 900 {path}", "echo nothing"]
)
def test_an_incomplete_remote_shard_is_named(command: str, tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(whole())
    url = f"pipe:{command.format(path=tmp_path / 'a.tar')}"
    with pytest.raises(DataError, match="pipe:"):
        list(read_shards([{"url": url}], skip_bad=False))


# ---- faults of members


def linked(path: Path, kind: bytes, name: str = "0001.heatmap.png") -> Path:
    """An archive in which the member `name` is a link or the like."""
    with tarfile.open(path, "w") as archive:
        for other, content in members(3).items():
            info = tarfile.TarInfo(other)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
            if other == "0001.jpg":
                info = tarfile.TarInfo(name)
                info.type, info.linkname = kind, "0000.heatmap.png"
                archive.addfile(info)
    return path


@pytest.mark.parametrize(
    "kind,message",
    [
        (tarfile.LNKTYPE, "a hard link"),
        (tarfile.SYMTYPE, "a symbolic link"),
        (tarfile.CHRTYPE, "a device"),
        (tarfile.FIFOTYPE, "a named pipe"),
    ],
)
def test_links_and_devices_are_faults_of_their_sample(
    kind: bytes, message: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = linked(tmp_path / "a.tar", kind)
    assert [entry.faults != () for entry in index_shard(path)] == [False, True, False]
    assert check_main([str(path), "--sheet", str(tmp_path / "s.png")]) == 1
    assert f"a.tar, 0001, heatmap.png: {message}, which webdataset skips" in capsys.readouterr().out
    entries = index_shard(linked(tmp_path / "b.tar", kind, "0009.jpg"))  # a sample of links only
    assert [entry.key for entry in entries if entry.faults] == ["0009"]


FAULTS = {  # name -> (members of the sample besides jpg and txt, member with the fault, message)
    "jpg": (
        {"heatmap.jpg": JPG},
        "heatmap.jpg",
        "not read; expected heatmap.png, heatmap.npy, heatmap.npz",
    ),
    "tif": ({"heatmap.tif": JPG}, "heatmap.tif", "not read"),
    "gz": ({"heatmap.npy.gz": b""}, "heatmap.npy.gz", "not read"),
    "plural": ({"heatmaps.npy": b""}, "heatmaps.npy", "not read"),
    "under": ({"heat_map.png": MAP}, "heat_map.png", "not read"),
    "gaze": ({"gaze.png": MAP}, "gaze.png", "not read"),
    "mask": ({"mask.png": MAP}, "mask.png", "not read"),
    "numbered": ({"heatmap1.png": MAP}, "heatmap1.png", "not read"),
    "nested": ({"left.heatmap.png": MAP}, "left.heatmap.png", "not read"),
    "two-maps": (
        {"heatmap.png": MAP, "heatmap.npy": b""},
        "heatmap.npy",
        "a second heatmap beside heatmap.png",
    ),
    "png": ({"png": MAP}, "png", "a second image beside jpg"),
    "webp": ({"webp": JPG}, "webp", "a second image beside jpg"),
    "dcm": ({"dcm": JPG}, "dcm", "a second image beside jpg"),
    "caption": ({"caption": b"x"}, "caption", "a second caption beside txt"),
    "empty-map": ({"heatmap.png": b""}, "heatmap.png", "unreadable"),
    "twice": ({"JPG": JPG}, "jpg", "is in the archive twice"),
}


@pytest.mark.slow
@pytest.mark.parametrize("extra,member,message", FAULTS.values(), ids=FAULTS)
def test_a_member_that_is_not_read_is_a_fault_of_its_key(
    extra: dict, member: str, message: str, tmp_path: Path
) -> None:
    bad = {"0007.jpg": JPG, "0007.txt": b"seven"}
    bad |= {f"0007.{name}": content for name, content in extra.items()}
    path = write_shard(tmp_path / "a.tar", {**members(4), **bad})
    with pytest.raises(DataError) as error:
        source(path)
    start = f"{path}, 0007, {member}: "
    (line,) = [line for line in str(error.value).splitlines() if start in line]
    assert message in line
    data_source = source(path, "--on-bad-sample", "skip")
    assert data_source.total == 4 and len(data_source.names) == 2
    assert sum(len(batch) for batch in data_source.info.dataloader) == 4
    # a remote shard is not checked before: the fault is found while it is read
    remote = source(f"pipe:cat {path}", "--train-num-samples", 4)
    with pytest.raises(DataError, match="0007"):
        list(remote.info.dataloader)


def test_methods_without_heatmaps_ignore_their_members(tmp_path: Path) -> None:
    path = write_shard(
        tmp_path / "a.tar",
        {
            **members(4),
            "0007.jpg": JPG,
            "0007.txt": b"seven",
            "0007.heatmap.tif": b"",
            "0007.heatmap.png": b"",
        },
    )
    data_source = source(path, heatmaps=False)
    assert data_source.total == 5 and not data_source.names
    assert all(len(batch.annotated) == 0 for batch in data_source.info.dataloader)


@pytest.mark.parametrize(
    "names,message",
    [
        (
            ["0007.tif", "0007.txt"],
            "an image of the type tif is not read from shards: found tif, txt",
        ),
        (["0007.dcm", "0007.txt"], "an image of the type dcm is not read"),
        (["0007.jpg", "0007.caption"], "a caption in caption is not read"),
        (["0007.jpg"], "found jpg; expected an image (jpg, png, jpeg, webp) and a txt"),
        (["0007.json"], "found json"),
    ],
)
def test_a_missing_image_or_caption_is_named_with_the_reason(
    names: list[str], message: str, tmp_path: Path
) -> None:
    path = write_shard(tmp_path / "a.tar", {**members(2), **{name: JPG for name in names}})
    with pytest.raises(DataError) as error:
        source(path)
    assert f"0007, members: {message}" in str(error.value)


@pytest.mark.parametrize("key", ["1.2.840.99.{}", "p10.{}", "study-3.v{}"])
def test_keys_with_dots_cause_one_short_message(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    content = {}
    for i in range(60):
        content |= {f"{key.format(i)}.jpg": JPG, f"{key.format(i)}.txt": b"x"}
    path = write_shard(tmp_path / "a.tar", content)
    assert check_main([str(path), "--sheet", str(tmp_path / "s.png")]) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "problem: " in line]
    assert "keys must not contain a dot; webdataset ends the key at the first one" in line
    assert line.count(".jpg") + line.count(".txt") == 10
    assert "and 110 more" in line


@pytest.mark.parametrize("folder", ["", "data/"])
def test_files_added_by_macos_are_skipped(folder: str, tmp_path: Path) -> None:
    """In folders too, where the pattern of webdataset would cut every sample in two."""
    content = {f"{folder}.DS_Store": b"x", "__MACOSX/._0000.jpg": b"x"}
    for name, data in members(4).items():
        content |= {f"{folder}._{name}": b"\0\5\x16\7", folder + name: data}
    data_source = source(write_shard(tmp_path / "a.tar", content))
    assert data_source.total == 4 and len(data_source.names) == 2
    assert sum(len(batch) for batch in data_source.info.dataloader) == 4


def test_separate_parts_of_one_key_are_all_faults(tmp_path: Path) -> None:
    order = {
        **members(2),
        "0005.jpg": JPG,
        "0005.txt": b"five",
        **members(2, first=7),
        "0005.heatmap.png": MAP,
    }
    path = write_shard(tmp_path / "a.tar", order)
    message = "2 problems in 6 samples(?s:.*)0005, key: members of this key are in several parts"
    with pytest.raises(DataError, match=message):
        source(path)
    data_source = source(path, "--on-bad-sample", "skip")
    assert data_source.total == 4
    assert sum(len(batch) for batch in data_source.info.dataloader) == 4


def test_keys_that_are_not_utf8_are_read(tmp_path: Path) -> None:
    sample = {"jpg": JPG, "txt": b"clear", "heatmap.png": members(1)["0000.heatmap.png"]}
    content = {f"R\udcf6ntgen{i}.{name}": value for i in range(4) for name, value in sample.items()}
    data_source = source(write_shard(tmp_path / "a.tar", content))
    ids = {i for batch in data_source.info.dataloader for i in batch.sample_id.tolist()}
    assert ids == set(data_source.names) and len(ids) == 4
    assert all("ntgen" in name for name in data_source.names.values())


def test_unbalanced_braces_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files, message = f"{tmp_path}/a-{{0..1.tar", r"a-\{0..1.tar: not a list of shards"
    assert check_main([files]) == 1
    error = capsys.readouterr().err
    assert "error: " in error
    assert re.search(message, error)
    for read in (local_shards, read_eval_set):
        with pytest.raises(DataError, match=message):
            read(Path(files) if read is read_eval_set else files)


# ---- nothing in a shard is executed


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("member", ["pyd", "pickle", "pkl", "pth", "heatmap.pyd", "x.npy"])
def test_no_pickle_of_a_shard_is_executed(member: str, tmp_path: Path) -> None:
    trap = tmp_path / "executed"
    content = members(4)
    content |= {f"0003.{member}": pickle.dumps(Malicious(trap))}
    shard = write_shard(tmp_path / "a.tar", content)
    pickle.loads(content[f"0003.{member}"])
    assert trap.exists()  # the pickle does execute code
    trap.unlink()
    if member == "heatmap.pyd":
        with pytest.raises(DataError, match="heatmap.pyd: seems to be a heatmap, but is not read"):
            source(shard)
    else:
        assert sum(len(samples) for samples in source(shard).info.dataloader) == 4
    assert sum(len(text) for _, text in validation(shard)) == 4
    assert not trap.exists()


# ---- --val-data


def test_validation_shards_are_checked_and_give_the_batches_of_open_clip(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shard = write_shard(tmp_path / "a.tar", members(5))
    args = arguments("--val-data", shard, "--batch-size", 2)
    transform, tokenizer = image_transform(32, is_train=False), open_clip.get_tokenizer("tiny")
    expected = list(
        upstream.get_wds_dataset(args, transform, is_train=False, tokenizer=tokenizer).dataloader
    )
    caplog.set_level("INFO")
    info = val_source(args, transform, tokenizer)
    batches = list(info.dataloader)
    assert len(batches) == len(expected) == 3
    assert info.dataloader.num_samples == 5
    for batch, stock in zip(batches, expected):
        assert all((a == b).all() for a, b in zip(batch, stock))
    assert "--val-num-samples is not given: 5" in caplog.text


@pytest.mark.parametrize(
    "name,content",
    [("0009.jpg", b"no image"), ("0009.jpg", b""), ("0009.png", JPG[:200]), ("0009.gif", JPG)],
)
def test_a_bad_validation_image_is_an_error_before_training_or_is_left_out(
    name: str, content: bytes, tmp_path: Path
) -> None:
    shard = write_shard(tmp_path / "a.tar", {**members(5), name: content, "0009.txt": b"nine"})
    with pytest.raises(DataError, match="a.tar, 0009"):
        validation(shard)
    assert sum(len(text) for _, text in validation(shard, "--on-bad-sample", "skip")) == 5
