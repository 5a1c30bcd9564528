"""Bad inputs of report generation, of comparisons of results, and of curve plans."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .harness import Case
from .world import Maker, evaluate, npz, put, rows, table
from .zero_shots import DEEP, Found


def reports(*flags: object, **files: str | bytes) -> Maker:
    content: dict[str, str | bytes] = {
        "a.csv": "\n".join([rows()[0], *rows()[1:5]]),
        "b.csv": "\n".join([rows()[0], *rows()[5:]]),
    }
    return put(
        content | {name.replace("__", "."): value for name, value in files.items()},
        evaluate(
            "reports",
            *("--data", "a.csv"),
            *("--train-data", "b.csv"),
            *("--writer", "copy"),
            *("--snippets", 2),
            *flags,
        ),
    )


def _report_cases() -> Found:
    good = {"instructions": "i", "snippet": "{number} {text}", "case": "{snippets}"}
    yield from [
        ("reports: --snippets 0", reports("--snippets", 0), ("--snippets",)),
        (
            "reports: a patient on both sides",
            reports("--train-data", "a.csv"),
            ("patient", "a.csv"),
        ),
        ("reports: no patients", reports("--patient-column", "who"), ("who",)),
        (
            "reports: an image twice",
            reports(a__csv="\n".join([rows()[0], rows()[1], rows()[1]])),
            ("a.csv", "images/0.png"),
        ),
        (
            "reports: template that is no JSON",
            reports("--prompt-template", "p.json", p__json="{"),
            ("p.json",),
        ),
        (
            "reports: template of brackets",
            reports("--prompt-template", "p.json", p__json=DEEP),
            ("p.json",),
        ),
        (
            "reports: template without {text}",
            reports(
                "--prompt-template", "p.json", p__json=json.dumps({**good, "snippet": "{number}"})
            ),
            ("p.json", "{text}"),
        ),
        (
            "reports: template of a list",
            reports("--prompt-template", "p.json", p__json="[1]"),
            ("p.json",),
        ),
        ("reports: --llm-tries 0", reports("--llm-tries", 0), ("--llm-tries",)),
        ("reports: --llm-timeout nan", reports("--llm-timeout", "nan"), ("--llm-timeout",)),
        ("reports: --max-new-tokens 0", reports("--max-new-tokens", 0), ("--max-new-tokens",)),
        ("reports: http without URL", reports("--writer", "http"), ("--llm-url",)),
        (
            "reports: a URL of a file",
            reports("--writer", "http", "--llm", "m", "--llm-url", "file:///etc/passwd"),
            ("--llm-url",),
        ),
        (
            "reports: a URL with a password",
            reports("--writer", "http", "--llm", "m", "--llm-url", "http://a:b@localhost/v1"),
            ("--llm-url",),
        ),
        (
            "reports: a URL of no port",
            reports("--writer", "http", "--llm", "m", "--llm-url", "http://localhost:99999/v1"),
            ("--llm-url",),
        ),
        (
            "reports: no language model",
            reports("--writer", "transformers", "--llm", "nowhere/at-all"),
            ("nowhere/at-all",),
        ),
        (
            "reports: a folder that is none",
            reports("--writer", "transformers", "--llm", "m", **{"m/config__json": "{"}),
            ("--llm m",),
        ),
        (
            "reports: GGUF of text",
            reports("--writer", "smollm2", "--llm", "m.gguf", m__gguf="hello"),
            ("m.gguf",),
        ),
        (
            "reports: GGUF header alone",
            reports("--writer", "smollm2", "--llm", "m.gguf", m__gguf=b"GGUF" + bytes(60)),
            ("m.gguf",),
        ),
        (
            "reports: lines of another run",
            reports(**{"out/reports__jsonl": "{}\n", "out/reports__settings__json": "{}"}),
            ("out",),
        ),
        (
            "reports: settings of a list",
            reports(**{"out/reports__jsonl": "{}\n", "out/reports__settings__json": "[1]"}),
            ("out",),
        ),
        (
            "reports: sentence model that is none",
            reports("--sentence-model", "images"),
            ("images",),
        ),
        (
            "reports: CheXbert of pickled code",
            reports(
                "--chexbert-model",
                "m",
                **{"m/chexbert__pth": _evil(), "m/config__json": "{}", "m/vocab__txt": "a\n"},
            ),
            ("chexbert.pth",),
        ),
    ]


def _evil() -> bytes:
    import torch

    from .checkpoints import Evil

    stream = io.BytesIO()
    torch.save({"model_state_dict": Evil()}, stream)
    return stream.getvalue()


def compare(**arrays: object) -> Maker:
    """A case with two results, the second with changed predictions; None leaves an array out."""
    good = {
        "kind": np.array("ranks"),
        "id": np.array(["a", "b", "c", "d"]),
        "rank": np.array([1.0, 2, 1, 3]),
    }
    other = {name: value for name, value in {**good, **arrays}.items() if value is not None}
    return put(
        {
            "one/predictions.npz": npz(**good),
            "two/predictions.npz": npz(**other),
            "one/result.json": '{"task": "retrieval"}',
            "two/result.json": '{"task": "retrieval"}',
        },
        ["evaluate", "compare", "one", "two", "--out", "out"],
    )


def compared(content: bytes, name: str = "two/predictions.npz", *flags: object) -> Maker:
    make = compare()

    def changed(folder: Path) -> list[object]:
        command = [*make(folder), *flags]
        (folder / name).write_bytes(content)
        return command

    return changed


def _compare_cases() -> Found:
    yield from [
        (
            "compare: of one",
            put({"one/x": ""}, ["evaluate", "compare", "one", "--out", "out"]),
            ("one",),
        ),
        (
            "compare: no such folder",
            put({"one/x": ""}, ["evaluate", "compare", "one", "gone", "--out", "out"]),
            ("gone|one",),
        ),
        ("compare: cut npz", compared(npz(a=np.zeros(9))[:60]), ("two", "predictions.npz")),
        ("compare: text", compared(b"hello"), ("two", "predictions.npz")),
        ("compare: an .npy", compared(b"\x93NUMPY\1\0"), ("two", "predictions.npz")),
        (
            "compare: npz of other arrays",
            compared(npz(a=np.zeros(9))),
            ("two", "predictions.npz|kind"),
        ),
        ("compare: pickled ids", compare(id=np.array([{}, 1, 2, 3], dtype=object)), ("two",)),
        ("compare: no ranks", compare(rank=None), ("two",)),
        ("compare: ranks of text", compare(rank=np.array(["a"] * 4)), ("two",)),
        ("compare: ranks of two dimensions", compare(rank=np.ones((4, 2))), ("two",)),
        ("compare: fewer ranks than ids", compare(rank=np.ones(2)), ("two",)),
        ("compare: NaN", compare(rank=np.full(4, np.nan)), ("two", "NaN")),
        ("compare: other ids", compare(id=np.array(["a", "b", "c", "z"])), ("two", "z")),
        ("compare: another kind", compare(kind=np.array("means")), ("two", "means")),
        ("compare: an unknown kind", compare(kind=np.array("tea")), ("two", "tea")),
        ("compare: broken result.json", compared(b"{", "two/result.json"), ("two", "result.json")),
        ("compare: result.json a list", compared(b"[]", "two/result.json"), ("two", "result.json")),
        ("compare: --draws 0", compared(b"{}", "two/result.json", "--draws", 0), ("--draws",)),
        (
            "compare: --difference nan",
            compared(b"{}", "two/result.json", "--difference", "nan"),
            ("--difference",),
        ),
    ]


PLAN = {
    "vary": "batches",
    "values": [1, 2],
    "seeds": [1],
    "methods": {"clip": {}},
    "train": {"train-data": "train.csv", "batch-size": 4},
    "evaluate": {"task": "retrieval"},
    "metric": "x",
}


def curve(change: dict | str | bytes) -> Maker:
    """A case with a curve plan with changed entries; None leaves an entry out."""

    def make(folder: Path) -> list[object]:
        table(folder)
        content = (
            change
            if isinstance(change, (str, bytes))
            else json.dumps(
                {key: value for key, value in {**PLAN, **change}.items() if value is not None}
            )
        )
        (folder / "plan.yaml").write_bytes(
            content if isinstance(content, bytes) else content.encode()
        )
        return ["evaluate", "curve", "--config", "plan.yaml", "--out", "out"]

    return make


def _curve_cases() -> Found:
    bad = [
        ("text", "hello"),
        ("broken YAML", "a: [1,"),
        ("bytes", b"\xff\xfe"),
        ("Python in YAML", "vary: !!python/object/apply:os.system ['touch ran_code']"),
        ("brackets", "[" * 5000),
        ("a bomb of aliases", _aliases()),
        ("an unknown entry", {"colour": 1}),
        ("no values", {"values": None}),
        ("vary a list", {"vary": ["batches"]}),
        ("vary of no name", {"vary": "time"}),
        ("values of text", {"values": ["a"]}),
        ("values NaN", {"values": [float("nan")]}),
        ("seeds a number", {"seeds": 3}),
        ("seeds negative", {"seeds": [-1]}),
        ("methods a list", {"methods": ["clip"]}),
        ("a method of no flags", {"methods": {"clip": 3}}),
        ("train a text", {"train": "x"}),
        ("batch-size a text", {"train": {"train-data": "train.csv", "batch-size": "big"}}),
        ("batch-size 0", {"train": {"train-data": "train.csv", "batch-size": 0}}),
        (
            "warmup a text",
            {"train": {"train-data": "train.csv", "batch-size": 4, "warmup": "slow"}},
        ),
        (
            "accum-freq a list",
            {"train": {"train-data": "train.csv", "batch-size": 4, "accum-freq": [2]}},
        ),
        ("train-data a list", {"train": {"train-data": ["train.csv"], "batch-size": 4}}),
        ("evaluate without task", {"evaluate": {}}),
        ("evaluate of no task", {"evaluate": {"task": "taste"}}),
        ("metric a number", {"metric": 3}),
        ("processes a text", {"processes": "two"}),
        ("processes 0", {"processes": 0}),
    ]
    for name, change in bad:
        yield f"curve: {name}", curve(change), ("plan.yaml",)
    yield (
        "curve: no such plan",
        put({}, ["evaluate", "curve", "--config", "gone.yaml", "--out", "out"]),
        ("gone.yaml",),
    )
    yield (
        "curve: no such table",
        curve({"train": {"train-data": "gone.csv", "batch-size": 4}}),
        ("gone.csv",),
    )


def _aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines)


def cases() -> Iterator[Case]:
    for found in (_report_cases, _compare_cases, _curve_cases):
        yield from (Case(name, "evaluation files", make, words) for name, make, words in found())
