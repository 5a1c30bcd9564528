"""Model folders, flags of training, checkpoints."""
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


def config(change: Callable[[dict], Any] | bytes, what: str = "train", weights: bool = False) -> Maker:
    """A model folder m/ with another config, for one of three commands."""
    def make(folder: Path) -> list[object]:
        (folder / "m").mkdir()
        found = copy.deepcopy(CONFIG)
        found = change if isinstance(change, bytes) else change(found) or found
        (folder / "m" / FILE).write_bytes(found if isinstance(found, bytes) else json.dumps(found).encode())
        if weights:
            shutil.copy(world() / "model" / "open_clip_model.safetensors", folder / "m")
        if what == "train":
            return train("--train-data", table(folder), model_name="local-dir:m")
        table(folder)
        return ["evaluate", "retrieval", "--model", "m" if what == "folder" else "local-dir:m", "--device", "cpu", "--workers", 0, "--cache", "none", "--out", "out",
                "--data", "train.csv"]
    return make


def eclip(settings: object) -> Maker:
    return config(lambda found: found["model_cfg"].update(eclip_cfg=settings))


def vision(**settings: object) -> Callable[[dict], None]:
    return lambda found: found["model_cfg"]["vision_cfg"].update(settings)


def text(**settings: object) -> Callable[[dict], None]:
    return lambda found: found["model_cfg"]["text_cfg"].update(settings)


def _config_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("cut JSON", config(b'{"model_cfg": {"embed_dim"'), (FILE,)), ("empty file", config(b""), (FILE,)), ("a list", config(b"[1, 2]"), (FILE,)),
        ("JSON of brackets", config(b"[" * 100000), (FILE,)), ("not UTF-8", config(b"\xff\xfe{}"), (FILE,)), ("no model_cfg", config(lambda found: {"preprocess_cfg": {}}), (FILE, "model_cfg")),
        ("model_cfg a text", config(lambda found: {**found, "model_cfg": "ViT-B-16"}), (FILE, "model_cfg")),
        ("no embed_dim", config(lambda found: found["model_cfg"].pop("embed_dim") and None), (FILE, "embed_dim")),
        ("embed_dim a text", config(lambda found: found["model_cfg"].update(embed_dim="wide")), (FILE, "embed_dim")),
        ("embed_dim negative", config(lambda found: found["model_cfg"].update(embed_dim=-4)), (FILE,)),
        ("no vision_cfg", config(lambda found: found["model_cfg"].pop("vision_cfg") and None), (FILE, "vision_cfg")),
        ("no text_cfg", config(lambda found: found["model_cfg"].pop("text_cfg") and None), (FILE, "text_cfg")),
        ("unknown key", config(lambda found: found["model_cfg"].update(embed_dims=4)), (FILE, "embed_dims")), ("unknown key of the tower", config(vision(layer=3)), (FILE, "layer")),
        ("layers a text", config(vision(layers="two")), (FILE,)), ("width no multiple of heads", config(vision(width=33)), (FILE,)), ("head_width of 0", config(vision(head_width=0)), (FILE,)),
        ("patch larger than the image", config(vision(patch_size=128)), (FILE,)), ("image_size negative", config(vision(image_size=-1)), (FILE,)),
        ("context_length of 0", config(text(context_length=0)), (FILE,)), ("heads that do not divide", config(text(heads=3)), (FILE,)),
        ("a timm model that is none", config(vision(timm_model_name="no_such_model")), (FILE, "no_such_model")),
        ("preprocess_cfg a list", config(lambda found: {**found, "preprocess_cfg": [1]}), (FILE, "preprocess_cfg")),
        
        ("mean a text", config(lambda found: {**found, "preprocess_cfg": {"mean": "dark"}}, "evaluate", True), (FILE, "mean")),
        ("eclip_cfg a list", eclip([1]), ("eclip_cfg",)), ("eclip_cfg of an unknown key", eclip({"alhpa": 0.3}), ("eclip_cfg", "alhpa")),
        ("eclip_cfg: alpha a text", eclip({"alpha": "much"}), ("alpha",)), ("eclip_cfg: alpha a list", eclip({"alpha": [1]}), ("alpha",)),
        ("eclip_cfg: unknown processor", eclip({"processor": {"kind": "gru"}}), ("processor", "gru")), ("eclip_cfg: processor a text", eclip({"processor": "mha"}), ("processor",)),
        ("eclip_cfg: heads of 0", eclip({"processor": {"heads": 0}}), ("processor",)), ("eclip_cfg: heads a text", eclip({"processor": {"heads": "8"}}), ("heads",)),
        ("eclip_cfg: patch a fraction", eclip({"processor": {"patch": 7.5}}), ("patch",)), ("eclip_cfg: curriculum beyond 1", eclip({"curriculum": {"cold": 2}}), ("curriculum", "cold")),
        ("eclip_cfg: curriculum of NaN", config(json.dumps({**CONFIG, "model_cfg": {**CONFIG["model_cfg"], "eclip_cfg": {"curriculum": {"cold": float("nan")}}}}).encode()), ("curriculum", "cold")),
        ("eclip_cfg: own_pairs a number", eclip({"own_pairs": 3}), ("own_pairs",)),
        ("evaluation without weights", config(lambda found: None, "evaluate"), ("m", "weights")), ("evaluation of a broken config", config(b"{", "evaluate"), (FILE,)),
        ("evaluation of a folder of broken config", config(b"{", "folder", True), (FILE,)), ("evaluation: weights do not fit", config(vision(width=64), "evaluate", True), ("m",)),
        ("no such folder", lambda folder: train("--train-data", table(folder), model_name="local-dir:gone"), ("gone", FILE)),
        ("no such model", lambda folder: train("--train-data", table(folder), model_name="ViT-Z-99"), ("ViT-Z-99",)),
        ("no such eclip model", lambda folder: train("--train-data", table(folder), model_name="eclip-ViT-Z-99"), ("ViT-Z-99",)),
        ("no such model, evaluation", put({"t.csv": "\n".join(rows())}, ["evaluate", "retrieval", "--model", "ViT-Z-99", "--pretrained", "random", "--data", "t.csv", "--out", "out"]), ("ViT-Z-99",)),
        ("no such weights, evaluation", put({"t.csv": "\n".join(rows())}, ["evaluate", "retrieval", "--model", "ViT-B-32", "--pretrained", "nowhere", "--data", "t.csv", "--out", "out"]), ("nowhere",)),
        ("weights of text, evaluation", put({"t.csv": "\n".join(rows()), "w.pt": "hello"}, ["evaluate", "retrieval", "--model", "RN50", "--pretrained", "w.pt", "--data", "t.csv", "--out", "out", "--device", "cpu"]),
         ("w.pt",)),
    ]


FLAGS: list[tuple[str, list[object], tuple[str, ...]]] = [
    ("--lr nan", ["--lr", "nan"], ("--lr",)), ("--lr -1", ["--lr", "-1"], ("--lr",)), ("--lr inf", ["--lr", "inf"], ("--lr",)), ("--lr x", ["--lr", "x"], ("--lr",)),
    ("--wd nan", ["--wd", "nan"], ("--wd",)), ("--wd negative", ["--wd", "-0.1"], ("--wd",)), ("--beta1 2", ["--beta1", 2], ("beta1",)), ("--beta2 nan", ["--beta2", "nan"], ("beta2",)), ("--eps 0", ["--eps", "-1"], ("eps",)),
    ("--epochs 0", ["--epochs", 0], ("--epochs",)), ("--epochs -3", ["--epochs", "-3"], ("--epochs",)), ("--batch-size 0", ["--batch-size", 0], ("--batch-size",)),
    ("--batch-size -4", ["--batch-size", "-4"], ("--batch-size",)), ("--workers -1", ["--workers", "-1"], ("--workers",)), ("--accum-freq 0", ["--accum-freq", 0], ("--accum-freq",)),
    ("--accum-freq beyond the batches", ["--accum-freq", 100], ("--accum-freq",)), ("--warmup -1", ["--warmup", "-5"], ("--warmup",)), ("--warmup nan", ["--warmup", "nan"], ("--warmup",)),
    ("--log-every-n-steps 0", ["--log-every-n-steps", 0], ("--log-every-n-steps",)), ("--save-frequency -1", ["--save-frequency", "-2"], ("--save-frequency",)),
    ("--grad-clip-norm nan", ["--grad-clip-norm", "nan"], ("--grad-clip-norm",)), ("--precision fp8", ["--precision", "fp8"], ("--precision",)),
    ("--lr-scheduler lines", ["--lr-scheduler", "lines"], ("lines",)), ("--opt none", ["--opt", "none"], ("--opt",)), ("--seed -1", ["--seed", "-1"], ("--seed",)), ("--device tpu9", ["--device", "tpu9"], ("--device",)),
    ("--eclip-alpha 0", ["--eclip-alpha", 0], ("alpha",)), ("--eclip-alpha inf", ["--eclip-alpha", "inf"], ("alpha",)), ("--eclip-alpha nan", ["--eclip-alpha", "nan"], ("alpha",)),
    ("--eclip-priming-weight 1", ["--eclip-priming-weight", 1], ("priming",)), ("--eclip-priming-weight nan", ["--eclip-priming-weight", "nan"], ("priming",)),
    ("--eclip-curriculum beyond 1", ["--eclip-curriculum", 0.5, 0.5, 0.5, 0, 0, 0], ("curriculum",)), ("--eclip-curriculum nan", ["--eclip-curriculum", "nan", 0, 0, 0, 0, 0], ("curriculum",)),
    ("--eclip-curriculum of five", ["--eclip-curriculum", 0, 0, 0, 0, 0], ("--eclip-curriculum",)), ("--eclip-crop-threshold 2", ["--eclip-crop-threshold", 2], ("crop",)),
    ("--method of no name", ["--method", "eclipse"], ("--method",)), ("--method twice the same", ["--method", "align+align"], ("--method",)), ("--method clip+align", ["--method", "clip+align"], ("--method",)),
    ("--align-weight nan", ["--method", "align", "--align-weight", "nan"], ("align", "weight")), ("--align-weight without align", ["--align-weight", 1], ("--align-weight",)),
    ("--dacl-weight -1", ["--method", "dacl", "--dacl-weight", "-1"], ("dacl", "weight")), ("--m3-mix-cfg of no key", ["--method", "m3-mix", "--pretrained", "x.pt", "--m3-mix-cfg", "k"], ("m3-mix",)),
    ("--m3-mix-cfg of text", ["--method", "m3-mix", "--pretrained", "x.pt", "--m3-mix-cfg", "s=big"], ("m3-mix",)),
    ("--expert-batch-size without data", ["--expert-batch-size", 2], ("--expert-batch-size",)), ("--eclip-heatmap-control of no name", ["--eclip-heatmap-control", "noise"], ("--eclip-heatmap-control",)),
    ("--eclip-no-mixup with alpha", ["--eclip-no-mixup", "--eclip-alpha", 1], ("--eclip-no-mixup",)), ("--force-image-size 0", ["--force-image-size", 0, 0], ("image",)),
    ("--force-image-size -8", ["--force-image-size", "-8"], ("--force-image-size",)), ("--force-context-length -1", ["--force-context-length", "-1"], ("--force-context-length",)),
    ("--pretrained no file", ["--pretrained", "gone.pt"], ("gone.pt|--pretrained",)), ("--train-num-samples -1", ["--train-num-samples", "-1"], ("--train-num-samples",)), ("no data", ["--train-data", ""], ("--train-data",)),
    ("a data set of an unknown kind", ["--train-data", "x.parquet"], ("x.parquet",)), ("--name with a slash out of the folder", ["--name", "../../out"], ("--name",)), ("--unknown-flag", ["--unknown-flag", 1], ("--unknown-flag",)),
    ("--resume no file", ["--resume", "gone.pt"], ("gone.pt",)), ("--aug-cfg of no key", ["--aug-cfg", "scale"], ("aug",)), ("--aug-cfg of an unknown key", ["--aug-cfg", "zoom=2"], ("aug", "zoom")),
    ("--aug-cfg that is code", ["--aug-cfg", "scale=__import__('os').system('true')"], ("aug",)), ("--image-mean of text", ["--image-mean", "dark"], ("--image-mean",)), ("--image-std of two", ["--image-std", 1, 1], ("--image-std",)),
    ("--dataset-type of no name", ["--dataset-type", "lmdb"], ("--dataset-type",)), ("--report-to of no name", ["--report-to", "paper"], ("--report-to",)), ("--lock-image-unlocked-groups -1", ["--lock-image", "--lock-image-unlocked-groups", "-1"], ("--lock-image",)),
]


def run_copy(change: Callable[[Path], object], command: list[object]) -> Maker:
    """The world's finished run as logs/run, its checkpoint changed by `change(file)`."""
    def make(folder: Path) -> list[object]:
        shutil.copytree(world() / "logs", folder / "logs")
        change(folder / "logs" / "run" / "checkpoints" / "epoch_1.pt")
        table(folder)
        return command
    return make


def flip(place: float, count: int = 64) -> Callable[[Path], object]:
    """Other bytes at that share of the file."""
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        first = int(len(content) * place)
        content[first:first + count] = bytes(value ^ 0x55 for value in content[first:first + count])
        path.write_bytes(content)
    return change


def saved(edit: Callable[[dict], object]) -> Callable[[Path], object]:
    """The checkpoint saved again with other content."""
    def change(path: Path) -> None:
        import torch
        found = torch.load(path, weights_only=True)
        found = edit(found) or found
        torch.save(found, path)
    return change


class Evil:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple:
        import os
        return os.system, ("touch ran_code",)


def _nan(found: dict) -> None:
    key = next(name for name in found["state_dict"] if name.endswith("visual.proj"))
    found["state_dict"][key] = found["state_dict"][key] * float("nan")


def _checkpoint_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    export = ["export", "logs/run", "exported"]
    resume = train("--train-data", "train.csv", "--epochs", 2, "--resume", "logs/run/checkpoints/epoch_1.pt", "--name", "again")
    measured = ["evaluate", "retrieval", "--model", "logs/run", "--device", "cpu", "--workers", 0, "--cache", "none", "--out", "out", "--data", "train.csv"]
    damages = [
        ("cut in half", lambda path: path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2])), ("empty", lambda path: path.write_bytes(b"")), ("text", lambda path: path.write_text("hello")),
        ("bytes flipped early", flip(0.3)), ("bytes flipped late", flip(0.8)), ("a pickle that runs code", saved(lambda found: {**found, "extra": Evil()})), ("a list", saved(lambda found: [1, 2])),
        ("no state_dict", saved(lambda found: {"epoch": 1})), ("a tensor of another shape", saved(lambda found: found["state_dict"].update({key: value[:1] for key, value in found["state_dict"].items() if key.endswith("visual.proj")}))),
        ("a zip of a text", lambda path: __import__("zipfile").ZipFile(path, "w").writestr("a.txt", "hello")),
    ]
    for number, (name, change) in enumerate(damages):
        yield f"{name}, export", run_copy(change, export), ("epoch_1.pt|checkpoints",)
        yield f"{name}, resume", run_copy(change, resume), ("epoch_1.pt",)
        if number % 2 == 0:
            yield f"{name}, evaluate", run_copy(change, measured), ("epoch_1.pt|checkpoints",)
    yield "weights of NaN, export", run_copy(saved(_nan), export), ("epoch_1.pt|visual.proj", "NaN|finite")
    yield "weights of NaN, evaluate", run_copy(saved(_nan), measured), ("NaN",)
    yield "of another method", run_copy(lambda path: None, [*resume, "--method", "clip"]), ("epoch_1.pt", "method")
    yield "of another model", run_copy(lambda path: None, [*resume, "--force-image-size", 32]), ("epoch_1.pt",)
    yield "resume of no epoch", run_copy(saved(lambda found: found.update(epoch="two")), resume), ("epoch_1.pt",)
    yield "export without config", run_copy(lambda path: (path.parents[1] / FILE).unlink(), export), (FILE,)
    yield "export of a broken config", run_copy(lambda path: (path.parents[1] / FILE).write_text("{"), export), (FILE,)
    yield "export into a full folder", run_copy(lambda path: None, ["export", "logs/run", "logs"]), ("logs",)
    yield "export of nothing", put({}, ["export", "gone", "out"]), ("gone",)
    yield "export of a run without checkpoints", run_copy(lambda path: path.unlink(), export), ("checkpoints",)
    yield "export onto a file", run_copy(lambda path: (path.parents[3] / "exported").write_text("x"), export), ("exported",)
    yield "export as a model that is none", run_copy(lambda path: (path.parents[1] / FILE).unlink(), [*export, "--model", "ViT-Z-99"]), ("ViT-Z-99",)
    yield "a run of this name is there", run_copy(lambda path: None, train("--train-data", "train.csv")), ("run", "--name|name")


def cases() -> Iterator[Case]:
    yield from (Case(name, "model configs", make, words) for name, make, words in _config_cases())
    unknown = config(lambda found: {**found, "preprocess_cfg": {"meen": [0.5]}}, "evaluate", True)
    yield Case("preprocess_cfg of an unknown key", "model configs", unknown, (FILE, "meen"), warns=True)
    for name, flags, words in FLAGS:
        yield Case(name, "flags", lambda folder, flags=flags: train("--train-data", table(folder), *flags), words)
    yield from (Case(name, "checkpoints", make, words) for name, make, words in _checkpoint_cases())


