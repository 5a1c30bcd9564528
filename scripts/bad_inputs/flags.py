"""Values of training flags that are errors."""

from __future__ import annotations

from collections.abc import Iterator

from .harness import Case
from .world import model, table, train

FLAGS: list[tuple[str, list[object], tuple[str, ...]]] = [
    ("--lr nan", ["--lr", "nan"], ("--lr",)),
    ("--lr -1", ["--lr", "-1"], ("--lr",)),
    ("--lr inf", ["--lr", "inf"], ("--lr",)),
    ("--lr x", ["--lr", "x"], ("--lr",)),
    ("--wd nan", ["--wd", "nan"], ("--wd",)),
    ("--wd negative", ["--wd", "-0.1"], ("--wd",)),
    ("--beta1 2", ["--beta1", 2], ("beta1",)),
    ("--beta2 nan", ["--beta2", "nan"], ("beta2",)),
    ("--eps 0", ["--eps", "-1"], ("eps",)),
    ("--epochs 0", ["--epochs", 0], ("--epochs",)),
    ("--epochs -3", ["--epochs", "-3"], ("--epochs",)),
    ("--batch-size 0", ["--batch-size", 0], ("--batch-size",)),
    ("--batch-size -4", ["--batch-size", "-4"], ("--batch-size",)),
    ("--workers -1", ["--workers", "-1"], ("--workers",)),
    ("--accum-freq 0", ["--accum-freq", 0], ("--accum-freq",)),
    ("--accum-freq beyond the batches", ["--accum-freq", 100], ("--accum-freq",)),
    ("--warmup -1", ["--warmup", "-5"], ("--warmup",)),
    ("--warmup nan", ["--warmup", "nan"], ("--warmup",)),
    ("--log-every-n-steps 0", ["--log-every-n-steps", 0], ("--log-every-n-steps",)),
    ("--save-frequency -1", ["--save-frequency", "-2"], ("--save-frequency",)),
    ("--grad-clip-norm nan", ["--grad-clip-norm", "nan"], ("--grad-clip-norm",)),
    ("--precision fp8", ["--precision", "fp8"], ("--precision",)),
    ("--lr-scheduler lines", ["--lr-scheduler", "lines"], ("lines",)),
    ("--opt none", ["--opt", "none"], ("--opt",)),
    ("--seed -1", ["--seed", "-1"], ("--seed",)),
    ("--device tpu9", ["--device", "tpu9"], ("--device",)),
    ("--eclip-alpha 0", ["--eclip-alpha", 0], ("alpha",)),
    ("--eclip-alpha inf", ["--eclip-alpha", "inf"], ("alpha",)),
    ("--eclip-alpha nan", ["--eclip-alpha", "nan"], ("alpha",)),
    ("--eclip-priming-weight 1", ["--eclip-priming-weight", 1], ("priming",)),
    ("--eclip-priming-weight nan", ["--eclip-priming-weight", "nan"], ("priming",)),
    (
        "--eclip-curriculum beyond 1",
        ["--eclip-curriculum", 0.5, 0.5, 0.5, 0, 0, 0],
        ("curriculum",),
    ),
    ("--eclip-curriculum nan", ["--eclip-curriculum", "nan", 0, 0, 0, 0, 0], ("curriculum",)),
    ("--eclip-curriculum of five", ["--eclip-curriculum", 0, 0, 0, 0, 0], ("--eclip-curriculum",)),
    ("--eclip-crop-threshold 2", ["--eclip-crop-threshold", 2], ("crop",)),
    ("--method of no name", ["--method", "eclipse"], ("--method",)),
    ("--method twice the same", ["--method", "align+align"], ("--method",)),
    ("--method clip+align", ["--method", "clip+align"], ("--method",)),
    ("--align-weight nan", ["--method", "align", "--align-weight", "nan"], ("align", "weight")),
    ("--align-weight without align", ["--align-weight", 1], ("--align-weight",)),
    ("--dacl-weight -1", ["--method", "dacl", "--dacl-weight", "-1"], ("dacl", "weight")),
    (
        "--m3-mix-cfg of no key",
        ["--method", "m3-mix", "--model", "MODEL", "--m3-mix-cfg", "k"],
        ("m3-mix",),
    ),
    (
        "--m3-mix-cfg of text",
        ["--method", "m3-mix", "--model", "MODEL", "--m3-mix-cfg", "s=big"],
        ("m3-mix",),
    ),
    ("--expert-batch-size without data", ["--expert-batch-size", 2], ("--expert-batch-size",)),
    (
        "--eclip-placebo of no name",
        ["--eclip-placebo", "noise"],
        ("--eclip-placebo",),
    ),
    (
        "--eclip-no-mixup with alpha",
        ["--eclip-no-mixup", "--eclip-alpha", 1],
        ("--eclip-no-mixup",),
    ),
    ("--force-image-size 0", ["--force-image-size", 0, 0], ("image",)),
    ("--force-image-size -8", ["--force-image-size", "-8"], ("--force-image-size",)),
    ("--force-context-length -1", ["--force-context-length", "-1"], ("--force-context-length",)),
    ("--pretrained no file", ["--pretrained", "gone.pt"], ("gone.pt|--pretrained",)),
    ("--train-num-samples -1", ["--train-num-samples", "-1"], ("--train-num-samples",)),
    ("no data", ["--train-data", ""], ("--train-data",)),
    ("a data set of an unknown kind", ["--train-data", "x.parquet"], ("x.parquet",)),
    ("--unknown-flag", ["--unknown-flag", 1], ("--unknown-flag",)),
    ("--resume no file", ["--resume", "gone.pt"], ("gone.pt",)),
    ("--aug-cfg of no key", ["--aug-cfg", "scale"], ("aug",)),
    ("--aug-cfg of an unknown key", ["--aug-cfg", "zoom=2"], ("aug", "zoom")),
    ("--aug-cfg that is code", ["--aug-cfg", "scale=__import__('os').system('true')"], ("aug",)),
    ("--image-mean of text", ["--image-mean", "dark"], ("--image-mean",)),
    ("--image-std of two", ["--image-std", 1, 1], ("--image-std",)),
    ("--dataset-type of no name", ["--dataset-type", "lmdb"], ("--dataset-type",)),
    (
        "--lock-image-unlocked-groups -1",
        ["--lock-image", "--lock-image-unlocked-groups", "-1"],
        ("--lock-image",),
    ),
]


def cases() -> Iterator[Case]:
    for name, flags, words in FLAGS:
        yield Case(
            name,
            "flags",
            lambda folder, flags=flags: train(
                "--train-data",
                table(folder),
                *(model() if flag == "MODEL" else flag for flag in flags),
            ),
            words,
        )
