"""Bad tables for training, validation, evaluation and the check of overlaps."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path

from .harness import Case
from .world import Maker, evaluate, pixels, png, put, rows, sample, shard, table, train

HEADER = "filepath,title,heatmap"


def changed(row: int, line: str) -> list[str]:
    """The lines of the good table with one row replaced.

    `line` has the first three cells of the new row; the others are filled in.
    """
    lines = rows()
    lines[row] = line + ",0,9,train" * (line.count(",") == 2)
    return lines


def check(lines: list[str] | str | bytes, name: str = "train.csv", *flags: object) -> Maker:
    content = lines if isinstance(lines, (str, bytes)) else "\n".join(lines) + "\n"
    return put({name: content}, ["check", name, *flags])


def _folder_for_table(folder: Path) -> list[object]:
    (folder / "train.csv").mkdir()
    return ["check", "train.csv"]


def _two_files(folder: Path) -> list[object]:
    (folder / "sub" / "images").mkdir(parents=True)
    table(folder, changed(2, "images/1.png,Other text.,"), "sub/train.csv").parent.joinpath(
        "images", "1.png"
    ).write_bytes(png(pixels(50)))
    return ["check", "sub/train.csv"]


def _one_map_for_all(folder: Path) -> list[object]:
    table(
        folder,
        [HEADER, *(f"images/{i}.png,Finding number {i}.,images/1.heatmap.png" for i in range(8))],
    )
    return ["check", "train.csv"]


def _quote(separator: str) -> str:
    lines = [line.replace(",", separator) for line in rows()]
    lines[2] = lines[2].replace("Finding", '"Finding')
    lines[5] = lines[5].replace("number 4.", 'number 4."')
    return "\n".join(lines) + "\n"


def _expert(folder: Path) -> list[object]:
    table(folder)
    table(
        folder, [HEADER, *(f"images/{i}.png,Finding number {i}.," for i in range(8))], "expert.csv"
    )
    return train("--train-data", "train.csv", "--expert-data", "expert.csv")


def _val(line: str) -> Maker:
    def make(folder: Path) -> list[object]:
        table(folder)
        table(folder, changed(3, line), "val.csv")
        return train("--train-data", "train.csv", "--val-data", "val.csv")

    return make


def _overlap(folder: Path) -> list[object]:
    shard(folder / "a.tar", sample(0))
    (folder / "b.csv").write_text("one,two\n1,2\n")
    return ["overlap", "a.tar", "b.csv"]


def _json_columns(folder: Path) -> list[object]:
    shard(folder / "a.tar", {**sample(0), "s0.json": b"[1, 2]"})
    return ["overlap", "a.tar", "a.tar"]


def _trained(lines: list[str], *flags: object) -> Maker:
    return put({"train.csv": "\n".join(lines) + "\n"}, train("--train-data", "train.csv", *flags))


def cases() -> Iterator[Case]:
    table_cases = [
        ("no such table", put({}, ["check", "gone.csv"]), ("gone.csv",)),
        ("empty file", check(""), ("train.csv",)),
        ("header alone", check([HEADER]), ("train.csv", "no rows|no sample")),
        ("blank lines alone", check("\n\n\n"), ("train.csv",)),
        (
            "no column of images",
            check([rows()[0].replace("filepath", "path"), *rows()[1:3]]),
            ("train.csv", "filepath"),
        ),
        (
            "no column of captions",
            check(["filepath,text", "images/0.png,a nodule"]),
            ("train.csv", "title"),
        ),
        (
            "column of images misnamed by flag",
            check(rows(), "train.csv", "--csv-img-key", "picture"),
            ("train.csv", "picture"),
        ),
        (
            "column of heatmaps named and absent",
            check(rows(), "train.csv", "--csv-heatmap-key", "heat_map"),
            ("heat_map",),
        ),
        (
            "no such image",
            check(changed(3, "images/gone.png,A nodule.,")),
            ("train.csv", "row 3", "gone.png"),
        ),
        ("image is a folder", check(changed(3, "images,A nodule.,")), ("train.csv", "row 3")),
        ("blank image cell", check(changed(3, ",A nodule.,")), ("train.csv", "row 3")),
        (
            "name longer than the system takes",
            check(changed(3, f"{'x' * 5000}.png,A nodule.,")),
            ("train.csv", "row 3"),
        ),
        (
            "empty caption",
            check(changed(3, "images/2.png,,")),
            ("train.csv", "row 3", "title|caption"),
        ),
        ("blank caption", check(changed(3, "images/2.png,   ,")), ("train.csv", "row 3")),
        ("caption nan", check(changed(3, "images/2.png,nan,")), ("train.csv", "row 3")),
        ("caption None", check(changed(3, "images/2.png,None,")), ("train.csv", "row 3")),
        ("caption <NA>", check(changed(3, "images/2.png,<NA>,")), ("train.csv", "row 3")),
        ("caption N/A", check(changed(3, "images/2.png, n/a ,")), ("train.csv", "row 3")),
        ("a quotation swallows rows, commas", check(_quote(",")), ("train.csv", "row|line")),
        (
            "a quotation swallows rows, tabs",
            check(_quote("\t"), "train.tsv"),
            ("train.tsv", "row|line"),
        ),
        (
            "a quotation never closed",
            check("\n".join(changed(7, 'images/6.png,"A nodule.,'))),
            ("train.csv",),
        ),
        (
            "text glued to a closing quote",
            check(changed(3, 'images/2.png,"A nodule."of note,')),
            ("train.csv", "row 3|line 4"),
        ),
        (
            "a column twice",
            check(["filepath,title,heatmap,title", "images/0.png,a nodule,,b"]),
            ("train.csv", "title", "twice|repeat|two columns|2 times"),
        ),
        (
            "more cells than the header",
            check(changed(3, "images/2.png,A nodule, large,images/1.heatmap.png,0,1,2,3,4")),
            ("train.csv",),
        ),
        (
            "fewer cells than the header",
            check(changed(3, "images/2.png")),
            ("train.csv", "row 3|line 4"),
        ),
        (
            "Latin-1",
            check("\n".join(changed(3, "images/2.png,Röntgen,")).encode("latin-1")),
            ("train.csv",),
        ),
        ("UTF-16", check("\n".join(rows()).encode("utf-16")), ("train.csv",)),
        ("a picture named .csv", check(png(pixels(0))), ("train.csv",)),
        ("gzip named .csv", check(gzip.compress("\n".join(rows()).encode())), ("train.csv",)),
        (
            "NUL in a name",
            check("\n".join(changed(3, "images/\0.png,A nodule,")).encode()),
            ("train.csv", "row 3|line 4"),
        ),
        ("a folder", _folder_for_table, ("train.csv",)),
        (
            "wrong separator",
            check(rows(), "train.csv", "--csv-separator", ";"),
            ("train.csv", "filepath", "--csv-separator|separator"),
        ),
        ("empty separator", check(rows(), "train.csv", "--csv-separator", ""), ("separator",)),
        ("a path that may be two files", _two_files, ("1.png",)),
        (
            "no such heatmap",
            check(changed(3, "images/2.png,A nodule.,images/gone.png")),
            ("train.csv", "row 3", "heatmap"),
        ),
        (
            "the heatmap is the image",
            check(changed(3, "images/2.png,A nodule.,images/2.png")),
            ("train.csv", "row 3", "heatmap"),
        ),
        (
            "windows that are no JSON",
            check(["filepath,title,windows", "images/0.png,A nodule.,images/0.png"]),
            ("train.csv", "row 1", "windows"),
        ),
        (
            "fewer rows than a batch",
            _trained(rows()[:3], "--batch-size", 64),
            ("batch", "train.csv"),
        ),
        (
            "no good sample with skip",
            _trained(
                [HEADER, *(f"gone{i}.png,Text.," for i in range(8))], "--on-bad-sample", "skip"
            ),
            ("train.csv",),
        ),
        (
            "training on a row without image",
            _trained(changed(5, "images/gone.png,A nodule.,")),
            ("train.csv", "row 5"),
        ),
        (
            "validation on a row without image",
            _val("images/gone.png,A nodule.,"),
            ("val.csv", "row 3"),
        ),
        ("validation on a row without caption", _val("images/2.png,nan,"), ("val.csv", "row 3")),
        ("experts without heatmaps", _expert, ("expert.csv", "annotated|heatmap")),
        (
            "evaluation of a table without images",
            put({"t.csv": "path,title\na.png,b\n"}, evaluate("retrieval", "--data", "t.csv")),
            ("t.csv", "filepath"),
        ),
        (
            "evaluation without such a text column",
            put(
                {"t.csv": "\n".join(rows())},
                evaluate("retrieval", "--data", "t.csv", "--text-column", "report"),
            ),
            ("t.csv", "report"),
        ),
        (
            "evaluation without any report",
            put(
                {"t.csv": "filepath,title\nimages/0.png,nan\nimages/1.png,\n"},
                evaluate("retrieval", "--data", "t.csv"),
            ),
            ("t.csv", "report"),
        ),
        (
            "evaluation of a row without image",
            put(
                {"t.csv": "\n".join(changed(4, "images/gone.png,x,"))},
                evaluate("retrieval", "--data", "t.csv"),
            ),
            ("t.csv", "row 4"),
        ),
        ("overlap of a table without known columns", _overlap, ("b.csv", "columns")),
        ("overlap of a shard whose json is a list", _json_columns, ("a.tar", "s0", "json")),
        ("overlap of one set", put({"t.csv": "\n".join(rows())}, ["overlap", "t.csv"]), ("t.csv",)),
    ]
    yield from (Case(name, "tables", make, words) for name, make, words in table_cases)
    warned = [
        (
            "heatmap column with a capital",
            check([rows()[0].replace("heatmap", "Heatmap"), *rows()[1:]]),
            ("Heatmap",),
        ),
        (
            "heatmap column in the plural",
            check([rows()[0].replace("heatmap", "heatmaps"), *rows()[1:]]),
            ("heatmaps",),
        ),
        (
            "one map for all images",
            _one_map_for_all,
            ("1.heatmap.png|images share|heatmap serves|same heatmap|one file|one heatmap",),
        ),
        (
            "captions longer than the text tower",
            put(
                {
                    "train.csv": "\n".join(
                        [
                            HEADER,
                            *(f"images/{i}.png,{'large nodule ' * 90} {i}.," for i in range(8)),
                        ]
                    )
                },
                train("--train-data", "train.csv", "--method", "clip"),
            ),
            ("caption", "context"),
        ),
    ]
    yield from (Case(name, "tables", make, words, warns=True) for name, make, words in warned)
