"""Model folders with a damaged open_clip_config.json, and models that do not exist."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .harness import Case
from .world import CONFIG, Maker, put, rows, table, train, world

FILE = "open_clip_config.json"


def config(
    change: Callable[[dict], Any] | bytes, what: str = "train", weights: bool = False
) -> Maker:
    """A case with a model folder m/ whose config is changed, for one of three commands."""

    def make(folder: Path) -> list[object]:
        (folder / "m").mkdir()
        loaded = copy.deepcopy(CONFIG)
        loaded = change if isinstance(change, bytes) else change(loaded) or loaded
        (folder / "m" / FILE).write_bytes(
            loaded if isinstance(loaded, bytes) else json.dumps(loaded).encode()
        )
        if weights:
            shutil.copy(world() / "model" / "open_clip_model.safetensors", folder / "m")
        if what == "train":
            return train("--train-data", table(folder), model_name="local-dir:m")
        table(folder)
        return [
            "evaluate",
            "retrieval",
            *("--model", "m" if what == "folder" else "local-dir:m"),
            *("--device", "cpu"),
            *("--workers", 0),
            *("--cache", "none"),
            *("--out", "out"),
            *("--data", "train.csv"),
        ]

    return make


def eclip(settings: object) -> Maker:
    return config(lambda loaded: loaded["model_cfg"].update(eclip_cfg=settings))


def vision(**settings: object) -> Callable[[dict], None]:
    return lambda loaded: loaded["model_cfg"]["vision_cfg"].update(settings)


def text(**settings: object) -> Callable[[dict], None]:
    return lambda loaded: loaded["model_cfg"]["text_cfg"].update(settings)


def _config_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("cut JSON", config(b'{"model_cfg": {"embed_dim"'), (FILE,)),
        ("empty file", config(b""), (FILE,)),
        ("a list", config(b"[1, 2]"), (FILE,)),
        ("JSON of brackets", config(b"[" * 100000), (FILE,)),
        ("not UTF-8", config(b"\xff\xfe{}"), (FILE,)),
        ("no model_cfg", config(lambda loaded: {"preprocess_cfg": {}}), (FILE, "model_cfg")),
        (
            "model_cfg a text",
            config(lambda loaded: {**loaded, "model_cfg": "ViT-B-16"}),
            (FILE, "model_cfg"),
        ),
        (
            "no embed_dim",
            config(lambda loaded: loaded["model_cfg"].pop("embed_dim") and None),
            (FILE, "embed_dim"),
        ),
        (
            "embed_dim a text",
            config(lambda loaded: loaded["model_cfg"].update(embed_dim="wide")),
            (FILE, "embed_dim"),
        ),
        (
            "embed_dim negative",
            config(lambda loaded: loaded["model_cfg"].update(embed_dim=-4)),
            (FILE,),
        ),
        (
            "no vision_cfg",
            config(lambda loaded: loaded["model_cfg"].pop("vision_cfg") and None),
            (FILE, "vision_cfg"),
        ),
        (
            "no text_cfg",
            config(lambda loaded: loaded["model_cfg"].pop("text_cfg") and None),
            (FILE, "text_cfg"),
        ),
        (
            "unknown key",
            config(lambda loaded: loaded["model_cfg"].update(embed_dims=4)),
            (FILE, "embed_dims"),
        ),
        ("unknown key of the tower", config(vision(layer=3)), (FILE, "layer")),
        ("layers a text", config(vision(layers="two")), (FILE,)),
        ("width no multiple of heads", config(vision(width=33)), (FILE,)),
        ("head_width of 0", config(vision(head_width=0)), (FILE,)),
        ("patch larger than the image", config(vision(patch_size=128)), (FILE,)),
        ("image_size negative", config(vision(image_size=-1)), (FILE,)),
        ("context_length of 0", config(text(context_length=0)), (FILE,)),
        ("heads that do not divide", config(text(heads=3)), (FILE,)),
        (
            "a timm model that is none",
            config(vision(timm_model_name="no_such_model")),
            (FILE, "no_such_model"),
        ),
        (
            "preprocess_cfg a list",
            config(lambda loaded: {**loaded, "preprocess_cfg": [1]}),
            (FILE, "preprocess_cfg"),
        ),
        (
            "mean a text",
            config(lambda loaded: {**loaded, "preprocess_cfg": {"mean": "dark"}}, "evaluate", True),
            (FILE, "mean"),
        ),
        ("eclip_cfg a list", eclip([1]), ("eclip_cfg",)),
        ("eclip_cfg of an unknown key", eclip({"alhpa": 0.3}), ("eclip_cfg", "alhpa")),
        ("eclip_cfg: alpha a text", eclip({"alpha": "much"}), ("alpha",)),
        ("eclip_cfg: alpha a list", eclip({"alpha": [1]}), ("alpha",)),
        (
            "eclip_cfg: unknown processor",
            eclip({"processor": {"kind": "gru"}}),
            ("processor", "gru"),
        ),
        ("eclip_cfg: processor a text", eclip({"processor": "mha"}), ("processor",)),
        ("eclip_cfg: heads of 0", eclip({"processor": {"heads": 0}}), ("processor",)),
        ("eclip_cfg: heads a text", eclip({"processor": {"heads": "8"}}), ("heads",)),
        ("eclip_cfg: patch a fraction", eclip({"processor": {"patch": 7.5}}), ("patch",)),
        (
            "eclip_cfg: curriculum beyond 1",
            eclip({"curriculum": {"cold": 2}}),
            ("curriculum", "cold"),
        ),
        (
            "eclip_cfg: curriculum of NaN",
            config(
                json.dumps(
                    {
                        **CONFIG,
                        "model_cfg": {
                            **CONFIG["model_cfg"],
                            "eclip_cfg": {"curriculum": {"cold": float("nan")}},
                        },
                    }
                ).encode()
            ),
            ("curriculum", "cold"),
        ),
        ("eclip_cfg: own_pairs a number", eclip({"own_pairs": 3}), ("own_pairs",)),
        (
            "evaluation of a folder without weights",
            config(lambda loaded: None, "folder"),
            ("m", "weights"),
        ),
        ("evaluation of a broken config", config(b"{", "evaluate"), (FILE,)),
        ("evaluation of a folder of broken config", config(b"{", "folder", True), (FILE,)),
        ("evaluation: weights do not fit", config(vision(width=64), "evaluate", True), ("m",)),
        (
            "no such folder",
            lambda folder: train("--train-data", table(folder), model_name="local-dir:gone"),
            ("gone", FILE),
        ),
        (
            "no such model",
            lambda folder: train("--train-data", table(folder), model_name="ViT-Z-99"),
            ("ViT-Z-99",),
        ),
        (
            "no such eclip model",
            lambda folder: train("--train-data", table(folder), model_name="eclip-ViT-Z-99"),
            ("ViT-Z-99",),
        ),
        (
            "no such model, evaluation",
            put(
                {"t.csv": "\n".join(rows())},
                [
                    "evaluate",
                    "retrieval",
                    *("--model", "ViT-Z-99"),
                    *("--pretrained", "random"),
                    *("--data", "t.csv"),
                    *("--out", "out"),
                ],
            ),
            ("ViT-Z-99",),
        ),
        (
            "no such weights, evaluation",
            put(
                {"t.csv": "\n".join(rows())},
                [
                    "evaluate",
                    "retrieval",
                    *("--model", "ViT-B-32"),
                    *("--pretrained", "nowhere"),
                    *("--data", "t.csv"),
                    *("--out", "out"),
                ],
            ),
            ("nowhere",),
        ),
        (
            "weights of text, evaluation",
            put(
                {"t.csv": "\n".join(rows()), "w.pt": "hello"},
                [
                    "evaluate",
                    "retrieval",
                    *("--model", "RN50"),
                    *("--pretrained", "w.pt"),
                    *("--data", "t.csv"),
                    *("--out", "out"),
                    *("--device", "cpu"),
                ],
            ),
            ("w.pt",),
        ),
    ]


def cases() -> Iterator[Case]:
    yield from (Case(name, "model configs", make, words) for name, make, words in _config_cases())
    untrained = config(lambda loaded: None, "evaluate")
    yield Case(
        "evaluation without weights", "model configs", untrained, ("m", "random"), warns=True
    )
    unknown = config(lambda loaded: {**loaded, "preprocess_cfg": {"meen": [0.5]}}, "evaluate", True)
    yield Case(
        "preprocess_cfg of an unknown key", "model configs", unknown, (FILE, "meen"), warns=True
    )
