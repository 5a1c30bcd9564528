"""What evaluation and reports read beside images: labels, classes, prompts, recipes, results, indexes, plans; and their flags."""
from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .harness import Case
from .world import Maker, evaluate, model, npz, png, pixels, put, rows, table, world

Found = Iterator[tuple[str, Maker, tuple[str, ...]]]
TEMPLATES = "a chest image with {c}\n"
DEEP = b"[" * 100000


def zero_shot(*flags: object, **files: str | bytes) -> Maker:
    """Zero-shot of the good table with the files `classes.txt` and `templates.txt`, or others; `_` in a name is a dot."""
    content: dict[str, str | bytes] = {"t.csv": "\n".join(rows()) + "\n", "classes.txt": "normal\nopacity\n", "templates.txt": TEMPLATES}
    content |= {name.replace("__", "."): value for name, value in files.items()}
    return put(content, evaluate("zero-shot", "--data", "t.csv", *(flags or ("--classes", "classes.txt", "--templates", "templates.txt"))))


def labelled(cell: str) -> dict[str, str]:
    """The good table whose row 3 has this label."""
    lines = rows()
    lines[3] = f"images/2.png,Text.,,{cell},2,train"
    return {"t__csv": "\n".join(lines) + "\n"}


def _zero_shot_cases() -> Found:
    json_classes = ("--classes", "c.json", "--templates", "templates.txt")
    json_templates = ("--classes", "classes.txt", "--templates", "p.json")
    yield from [
        ("an unknown label", zero_shot(**labelled("9")), ("t.csv", "row 3", "label")), ("no label", zero_shot(**labelled("")), ("t.csv", "row 3", "label")),
        ("no column of labels", zero_shot(t__csv="filepath,title\nimages/0.png,a\n"), ("t.csv", "normal|label")), ("no such file of classes", zero_shot("--classes", "gone.txt", "--templates", "templates.txt"), ("gone.txt",)),
        ("one class", zero_shot(classes__txt="normal\n"), ("classes.txt", "1 class")), ("a class twice", zero_shot(classes__txt="normal\nopacity\nnormal\n"), ("classes.txt", "line 3")),
        ("classes: broken JSON", zero_shot(*json_classes, c__json="[1,"), ("c.json",)), ("classes: JSON of brackets", zero_shot(*json_classes, c__json=DEEP), ("c.json",)),
        ("classes: numbers", zero_shot(*json_classes, c__json="[1, 2]"), ("c.json",)), ("classes: an object", zero_shot(*json_classes, c__json='{"a": 1}'), ("c.json",)),
        ("classes of bytes", zero_shot(classes__txt=b"\xff\xfe\xff"), ("classes.txt",)), ("classes: a folder", zero_shot("--classes", "images", "--templates", "templates.txt"), ("images",)),
        ("templates without {c}", zero_shot(templates__txt="a chest image\n"), ("templates.txt", "{c}")), ("templates: empty", zero_shot(templates__txt="\n"), ("templates.txt",)),
        ("templates: JSON of a number", zero_shot(*json_templates, p__json="3"), ("p.json",)), ("templates: JSON of another set", zero_shot(*json_templates, p__json='{"x": ["{c}"], "y": []}'), ("p.json",)),
        ("templates: only positive", zero_shot(*json_templates, p__json='{"positive": {"normal": ["a"]}, "negative": 3}'), ("p.json",)),
        ("templates: a class without prompts", zero_shot(*json_templates, p__json='{"normal": ["a"], "opacity": []}'), ("p.json", "opacity")),
        ("templates: JSON of brackets", zero_shot(*json_templates, p__json=DEEP), ("p.json",)), ("templates: null under the set's name", zero_shot(*json_templates, p__json='{"t": null}'), ("p.json",)),
        ("recipe: broken JSON", zero_shot("--templates", "templates.txt", t__recipe__json="{"), ("t.recipe.json",)), ("recipe: a list", zero_shot("--templates", "templates.txt", t__recipe__json="[1]"), ("t.recipe.json",)),
        ("recipe: classes a text", zero_shot("--templates", "templates.txt", t__recipe__json='{"classes": "normal"}'), ("t.recipe.json", "classes")),
        ("recipe: classes of numbers", zero_shot("--templates", "templates.txt", t__recipe__json='{"classes": [1, 2]}'), ("t.recipe.json", "classes")),
        ("recipe: set a number", zero_shot("--templates", "templates.txt", t__recipe__json='{"classes": ["normal", "opacity"], "set": 3}'), ("t.recipe.json", "set")),
        ("recipe: prompts a list", zero_shot("--class-vector", "mean", classes__json='{"classes": ["normal", "opacity"], "prompts": ["a"]}'), ("classes.json", "prompts")),
        ("classes.json of bytes", zero_shot("--class-vector", "mean", classes__json=b"\xff\xfe"), ("classes.json",)),
        ("a protocol and its contrary", zero_shot("--protocol", "gloria", "--class-vector", "mean", "--classes", "classes.txt", "--templates", "templates.txt"), ("--class-vector",)),
        ("a set and classes", zero_shot("--set", "rsna", "--classes", "classes.txt"), ("--set",)), ("no classes", zero_shot("--prompts", "rsna:biovil"), ("t.csv", "--classes")),
        ("prompts of other classes", zero_shot("--classes", "classes.txt", "--prompts", "rsna:biovil"), ("normal", "rsna:biovil")), ("--sample 0", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--sample", 0), ("--sample",)),
        ("--sample beyond the prompts", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--sample", 9), ("9", "templates.txt")),
        ("--seed -1", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--sample", 1, "--seed", "-1"), ("--seed",)),
        ("--batch-size 0", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--batch-size", 0), ("--batch-size",)), ("--device tpu9", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--device", "tpu9"), ("tpu9",)),
        ("--device cuda without one", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--device", "cuda:7"), ("cuda:7",)),
        ("--out is a file", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "t.csv"), ("t.csv",)), ("--out below a file", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "t.csv/x"), ("t.csv",)),
        ("--out of something else", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "images"), ("images",)),
        ("--out of a broken result", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "r", **{"r/result__json": "{"}), ("result.json",)),
        ("--out of a result that is a list", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--out", "r", **{"r/result__json": "[]"}), ("r",)),
        ("--cache is a file", zero_shot("--classes", "classes.txt", "--templates", "templates.txt", "--cache", "t.csv"), ("t.csv|--cache",)),
        ("an unknown task", lambda folder: ["evaluate", "zero-shoot"], ("zero-shoot",)), ("no task", lambda folder: ["evaluate"], ("TASK|task",)),
    ]


def probe(*flags: object, lines: list[str] | None = None) -> Maker:
    return put({"t.csv": "\n".join(rows() if lines is None else lines) + "\n"}, evaluate("linear-probe", *flags))


def _other_task_cases() -> Found:
    t, one = ("--data", "t.csv"), ("--data", "t.csv", "--classes", "0", "1")
    yield from [
        ("probe without data", probe(), ("--data",)), ("probe of both forms", probe(*t, "--train-data", "t.csv"), ("--data",)), ("probe without classes", probe(*t), ("t.csv", "--classes")),
        ("probe: --fractions 0", probe(*one, "--fractions", 0), ("--fractions",)), ("probe: --fractions nan", probe(*one, "--fractions", "nan"), ("--fractions",)), ("probe: --resamples 0", probe(*one, "--resamples", 0), ("--resamples",)),
        ("probe: --seed -1", probe(*one, "--seed", "-1"), ("--seed",)), ("probe: no such split column", probe(*one, "--split-column", "part"), ("t.csv", "part")), ("probe: an unknown split", probe(*one, "--split-column", "patient"), ("t.csv", "row 1", "patient")),
        ("probe: two rows", probe(*one, lines=rows()[:3]), ("2 patients", "t.csv")), ("probe: sides share images", probe("--train-data", "t.csv", "--test-data", "t.csv", "--classes", "0", "1"), ("both", "train")),
        ("probe: one class twice", probe(*t, "--classes", "0", "0"), ("--classes|classes",)), ("probe: a class in no row", probe(*t, "--classes", "0", "1", "2"), ("2|class",)),
        ("retrieval: group rule without column", put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--rule", "group")), ("--group-column",)),
        ("retrieval: blank group", put({"t.csv": "\n".join([*rows()[:4], "images/3.png,x,,0,,train"])}, evaluate("retrieval", *t, "--rule", "group", "--group-column", "patient")), ("t.csv", "row 4", "patient")),
        ("retrieval: no such label", put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--labels", "size")), ("t.csv", "size")),
        ("retrieval: index onto a file", put({"t.csv": "\n".join(rows())}, evaluate("retrieval", *t, "--save-index", "t.csv")), ("t.csv",)),
        ("quality: --pairs 1", put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--pairs", 1)), ("--pairs",)), ("quality: --pairs -3", put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--pairs", "-3")), ("--pairs",)),
        ("quality: --draws 0", put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--draws", 0)), ("--draws",)), ("quality: --seed -1", put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--seed", "-1")), ("--seed",)),
        ("quality: one sample", put({"t.csv": "\n".join(rows()[:2])}, evaluate("embedding-quality", *t)), ("pairs|sample",)), ("quality: an empty text", put({"t.csv": "\n".join([*rows()[:3], "images/2.png,,,1,2,train"])}, evaluate("embedding-quality", *t)), ("t.csv", "row 3")),
        ("quality: no such group", put({"t.csv": "\n".join(rows())}, evaluate("embedding-quality", *t, "--group-column", "size")), ("t.csv", "size")), ("quality: recipe of numbers", put({"t.csv": "\n".join(rows()), "classes.json": '{"classes": 3}'}, evaluate("embedding-quality", *t)), ("classes.json",)),
        ("sensitivity without heatmaps", put({"t.csv": "filepath,title\nimages/0.png,a\nimages/1.png,b\n"}, evaluate("sensitivity", *t)), ("t.csv", "heatmap")), ("sensitivity of one heatmap", put({"t.csv": "\n".join(rows()[:3])}, evaluate("sensitivity", *t)), ("t.csv", "1")),
        ("sensitivity: --seed -1", put({"t.csv": "\n".join(rows())}, evaluate("sensitivity", *t, "--seed", "-1")), ("--seed",)), ("sensitivity: no such text", put({"t.csv": "\n".join(rows())}, evaluate("sensitivity", *t, "--text-column", "report")), ("report",)),
        ("sensitivity: a table without images", put({"t.csv": "\n".join(rows()), "h.csv": "a,b\n1,2\n"}, evaluate("sensitivity", *t, "--heatmaps", "h.csv")), ("h.csv",)),
        ("sensitivity: a heatmap of a missing file", put({"t.csv": "\n".join([*rows()[:5], "images/4.png,x,gone.png,1,4,train"])}, evaluate("sensitivity", *t)), ("t.csv", "row 5", "gone.png")),
        ("search: --top 0", put({"a.png": png(pixels(0))}, ["evaluate", "search", "a.png", "--index", world() / "index", "--model", model(), "--top", 0]), ("--top",)),
    ]


def index(change: Callable[[Path], object], command: str = "search") -> Maker:
    """The world's index with other files, for `search` or `report`."""
    def make(folder: Path) -> list[object]:
        shutil.copytree(world() / ("index" if command == "search" else "reports_index"), folder / "index")
        change(folder / "index")
        (folder / "a.png").write_bytes(png(pixels(0)))
        if command == "search":
            return ["evaluate", "search", "a.png", "--index", "index", "--model", model(), "--device", "cpu"]
        return ["report", "a.png", "--index", "index", "--model", model(), "--device", "cpu", "--writer", "copy"]
    return make


def facts(**changes: object) -> Callable[[Path], object]:
    """index.json with other entries; None leaves one out."""
    def change(folder: Path) -> None:
        found = {**json.loads((folder / "index.json").read_text()), **changes}
        (folder / "index.json").write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
    return change


def _index_cases() -> Found:
    yield from [
        ("index: no such folder", index(lambda folder: shutil.rmtree(folder)), ("index",)), ("index: broken JSON", index(lambda folder: (folder / "index.json").write_text("{")), ("index.json",)),
        ("index: JSON of a list", index(lambda folder: (folder / "index.json").write_text("[]")), ("index.json",)), ("index: JSON of brackets", index(lambda folder: (folder / "index.json").write_bytes(DEEP)), ("index.json",)),
        ("index: no files named", index(facts(files=None)), ("index.json",)), ("index: files a list", index(facts(files=["index.faiss"])), ("index.json",)), ("index: no encoder", index(facts(encoder=None)), ("index.json", "encoder")),
        ("index: encoder a text", index(facts(encoder="x")), ("index.json", "encoder")), ("index: of another model", index(facts(encoder={"weights_hash": "0" * 64, "model": "m", "pretrained": "p"})), ("index", "model")),
        ("index: FAISS file damaged", index(lambda folder: (folder / "index.faiss").write_bytes(b"x" * 500)), ("index.faiss",)), ("index: FAISS file damaged, hash made right", index(_rehashed(b"x" * 500)), ("index.faiss",)),
        ("index: FAISS file cut, hash made right", index(_rehashed(None)), ("index.faiss",)), ("index: a file outside the folder", index(facts(files={"../a.png": "0" * 64})), ("a.png|index.json",)),
        ("report: index of retrieval", index(lambda folder: [shutil.rmtree(folder), shutil.copytree(world() / "index", folder)], "report"), ("index", "examples")), ("report: examples a text", index(facts(examples="x"), "report"), ("index.json", "examples")),
        ("report: examples of nothing", index(facts(examples=[{}]), "report"), ("index.json", "examples")), ("report: snippets a text", index(facts(snippets="x"), "report"), ("index.json", "snippets")),
        ("report: no seed", index(facts(seed=None), "report"), ("index.json", "seed")), ("report: pick of no name", index(facts(pick="best"), "report"), ("index.json", "pick")),
        ("report: --out is there", put({"o": "", "a.png": png(pixels(0))}, ["report", "a.png", "--index", world() / "reports_index", "--model", model(), "--writer", "copy", "--out", "o"]), ("--out o",)),
    ]


def _rehashed(content: bytes | None) -> Callable[[Path], object]:
    """Another index.faiss (None: cut in half) that index.json vouches for."""
    def change(folder: Path) -> None:
        import hashlib
        path = folder / "index.faiss"
        path.write_bytes(path.read_bytes()[:len(path.read_bytes()) // 2] if content is None else content)
        files = json.loads((folder / "index.json").read_text())["files"]
        facts(files={**files, "index.faiss": hashlib.sha256(path.read_bytes()).hexdigest()})(folder)
    return change


def reports(*flags: object, **files: str | bytes) -> Maker:
    content: dict[str, str | bytes] = {"a.csv": "\n".join([rows()[0], *rows()[1:5]]), "b.csv": "\n".join([rows()[0], *rows()[5:]])}
    return put(content | {name.replace("__", "."): value for name, value in files.items()}, evaluate("reports", "--data", "a.csv", "--train-data", "b.csv", "--writer", "copy", "--snippets", 2, *flags))


def _report_cases() -> Found:
    good = {"instructions": "i", "snippet": "{number} {text}", "case": "{snippets}"}
    yield from [
        ("reports: --snippets 0", reports("--snippets", 0), ("--snippets",)), ("reports: a patient on both sides", reports("--train-data", "a.csv"), ("patient", "a.csv")), ("reports: no patients", reports("--patient-column", "who"), ("who",)),
        ("reports: an image twice", reports(a__csv="\n".join([rows()[0], rows()[1], rows()[1]])), ("a.csv", "images/0.png")), ("reports: template that is no JSON", reports("--prompt-template", "p.json", p__json="{"), ("p.json",)),
        ("reports: template of brackets", reports("--prompt-template", "p.json", p__json=DEEP), ("p.json",)), ("reports: template without {text}", reports("--prompt-template", "p.json", p__json=json.dumps({**good, "snippet": "{number}"})), ("p.json", "{text}")),
        ("reports: template of a list", reports("--prompt-template", "p.json", p__json="[1]"), ("p.json",)), ("reports: --llm-tries 0", reports("--llm-tries", 0), ("--llm-tries",)), ("reports: --llm-timeout nan", reports("--llm-timeout", "nan"), ("--llm-timeout",)),
        ("reports: --max-new-tokens 0", reports("--max-new-tokens", 0), ("--max-new-tokens",)), ("reports: http without URL", reports("--writer", "http"), ("--llm-url",)), ("reports: a URL of a file", reports("--writer", "http", "--llm", "m", "--llm-url", "file:///etc/passwd"), ("--llm-url",)),
        ("reports: a URL with a password", reports("--writer", "http", "--llm", "m", "--llm-url", "http://a:b@localhost/v1"), ("--llm-url",)), ("reports: a URL of no port", reports("--writer", "http", "--llm", "m", "--llm-url", "http://localhost:99999/v1"), ("--llm-url",)),
        ("reports: no language model", reports("--writer", "transformers", "--llm", "nowhere/at-all"), ("nowhere/at-all",)), ("reports: a folder that is none", reports("--writer", "transformers", "--llm", "m", **{"m/config__json": "{"}), ("--llm m",)),
        ("reports: GGUF of text", reports("--writer", "smollm2", "--llm", "m.gguf", m__gguf="hello"), ("m.gguf",)), ("reports: GGUF header alone", reports("--writer", "smollm2", "--llm", "m.gguf", m__gguf=b"GGUF" + bytes(60)), ("m.gguf",)),
        ("reports: lines of another run", reports(**{"out/reports__jsonl": "{}\n", "out/reports__settings__json": "{}"}), ("out",)), ("reports: settings of a list", reports(**{"out/reports__jsonl": "{}\n", "out/reports__settings__json": "[1]"}), ("out",)),
        ("reports: sentence model that is none", reports("--sentence-model", "images"), ("images",)), ("reports: CheXbert of pickled code", reports("--chexbert-model", "m", **{"m/chexbert__pth": _evil(), "m/config__json": "{}", "m/vocab__txt": "a\n"}), ("chexbert.pth",)),
    ]


def _evil() -> bytes:
    import torch
    from .models import Evil
    stream = io.BytesIO()
    torch.save({"model_state_dict": Evil()}, stream)
    return stream.getvalue()


def compare(**arrays: object) -> Maker:
    """Two results, the second with other predictions; None leaves an array out."""
    good = {"kind": np.array("ranks"), "id": np.array(["a", "b", "c", "d"]), "rank": np.array([1.0, 2, 1, 3])}
    other = {name: value for name, value in {**good, **arrays}.items() if value is not None}
    return put({"one/predictions.npz": npz(**good), "two/predictions.npz": npz(**other), "one/result.json": '{"task": "retrieval"}', "two/result.json": '{"task": "retrieval"}'},
               ["evaluate", "compare", "one", "two", "--out", "out"])


def compared(content: bytes, name: str = "two/predictions.npz", *flags: object) -> Maker:
    make = compare()

    def changed(folder: Path) -> list[object]:
        command = [*make(folder), *flags]
        (folder / name).write_bytes(content)
        return command
    return changed


def _compare_cases() -> Found:
    yield from [
        ("compare: of one", put({"one/x": ""}, ["evaluate", "compare", "one", "--out", "out"]), ("one",)), ("compare: no such folder", put({"one/x": ""}, ["evaluate", "compare", "one", "gone", "--out", "out"]), ("gone|one",)),
        ("compare: cut npz", compared(npz(a=np.zeros(9))[:60]), ("two", "predictions.npz")), ("compare: text", compared(b"hello"), ("two", "predictions.npz")), ("compare: an .npy", compared(b"\x93NUMPY\1\0"), ("two", "predictions.npz")),
        ("compare: npz of other arrays", compared(npz(a=np.zeros(9))), ("two", "predictions.npz|kind")), ("compare: pickled ids", compare(id=np.array([{}, 1, 2, 3], dtype=object)), ("two",)), ("compare: no ranks", compare(rank=None), ("two",)),
        ("compare: ranks of text", compare(rank=np.array(["a"] * 4)), ("two",)), ("compare: ranks of two dimensions", compare(rank=np.ones((4, 2))), ("two",)), ("compare: fewer ranks than ids", compare(rank=np.ones(2)), ("two",)), ("compare: NaN", compare(rank=np.full(4, np.nan)), ("two", "NaN")),
        ("compare: other ids", compare(id=np.array(["a", "b", "c", "z"])), ("two", "z")), ("compare: another kind", compare(kind=np.array("means")), ("two", "means")), ("compare: an unknown kind", compare(kind=np.array("tea")), ("two", "tea")),
        ("compare: broken result.json", compared(b"{", "two/result.json"), ("two", "result.json")), ("compare: result.json a list", compared(b"[]", "two/result.json"), ("two", "result.json")), ("compare: --draws 0", compared(b"{}", "two/result.json", "--draws", 0), ("--draws",)),
        ("compare: --difference nan", compared(b"{}", "two/result.json", "--difference", "nan"), ("--difference",)),
    ]


PLAN = {"vary": "batches", "values": [1, 2], "seeds": [1], "methods": {"clip": {}}, "train": {"train-data": "train.csv", "batch-size": 4}, "evaluate": {"task": "retrieval"}, "metric": "x"}


def curve(change: dict | str | bytes) -> Maker:
    """A plan with other entries; None leaves one out."""
    def make(folder: Path) -> list[object]:
        table(folder)
        content = change if isinstance(change, (str, bytes)) else json.dumps({key: value for key, value in {**PLAN, **change}.items() if value is not None})
        (folder / "plan.yaml").write_bytes(content if isinstance(content, bytes) else content.encode())
        return ["evaluate", "curve", "--config", "plan.yaml", "--out", "out"]
    return make


def _curve_cases() -> Found:
    bad = [("text", "hello"), ("broken YAML", "a: [1,"), ("bytes", b"\xff\xfe"), ("Python in YAML", "vary: !!python/object/apply:os.system ['touch ran_code']"), ("brackets", "[" * 5000), ("a bomb of aliases", _aliases()), ("an unknown entry", {"colour": 1}), ("no values", {"values": None}),
           ("vary a list", {"vary": ["batches"]}), ("vary of no name", {"vary": "time"}), ("values of text", {"values": ["a"]}), ("values NaN", {"values": [float("nan")]}), ("seeds a number", {"seeds": 3}), ("seeds negative", {"seeds": [-1]}), ("methods a list", {"methods": ["clip"]}), ("a method of no flags", {"methods": {"clip": 3}}), ("train a text", {"train": "x"}),
           ("batch-size a text", {"train": {"train-data": "train.csv", "batch-size": "big"}}), ("batch-size 0", {"train": {"train-data": "train.csv", "batch-size": 0}}), ("warmup a text", {"train": {"train-data": "train.csv", "batch-size": 4, "warmup": "slow"}}), ("accum-freq a list", {"train": {"train-data": "train.csv", "batch-size": 4, "accum-freq": [2]}}),
           ("train-data a list", {"train": {"train-data": ["train.csv"], "batch-size": 4}}), ("evaluate without task", {"evaluate": {}}), ("evaluate of no task", {"evaluate": {"task": "taste"}}), ("metric a number", {"metric": 3}), ("processes a text", {"processes": "two"}), ("processes 0", {"processes": 0})]
    for name, change in bad:
        yield f"curve: {name}", curve(change), ("plan.yaml",)
    yield "curve: no such plan", put({}, ["evaluate", "curve", "--config", "gone.yaml", "--out", "out"]), ("gone.yaml",)
    yield "curve: no such table", curve({"train": {"train-data": "gone.csv", "batch-size": 4}}), ("gone.csv",)


def _aliases() -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
    return "\n".join(lines)


def cases() -> Iterator[Case]:
    for found in (_zero_shot_cases, _other_task_cases, _index_cases, _report_cases, _compare_cases, _curve_cases):
        yield from (Case(name, "evaluation files", make, words) for name, make, words in found())
