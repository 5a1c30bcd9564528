"""Tables: every row of the file is read, or one sentence names the line with the error.

Messages on a missing column name similar ones.
"""

from __future__ import annotations

import gzip
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import write_shard, write_table

from openclip_eclip.config import DataError
from openclip_eclip.data.check import check_table
from openclip_eclip.data.check import main as check_main
from openclip_eclip.data.overlap_read import read_sets
from openclip_eclip.data.tables.csv_source import CsvColumns, read_csv_table
from openclip_eclip.data.tables.near_names import near_names
from openclip_eclip.data.tables.text import CHUNK, read_table_text
from openclip_eclip.evaluate.inputs.eval_set import read_eval_set
from openclip_eclip.evaluate.inputs.heatmaps import join_heatmaps
from openclip_eclip.prepare.tables import read_table

HEADER = "filepath,title,heatmap\n"
TABS = HEADER.replace(",", "\t")


def content(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


# ---- valid tables

VALID = {
    "plain": (HEADER + "1.png,a,\n2.png,b,h.png\n", [("1.png", "a"), ("2.png", "b")]),
    "no last line end": (HEADER + "1.png,a,", [("1.png", "a")]),
    "windows line ends": ((HEADER + "1.png,a,\n").replace("\n", "\r\n"), [("1.png", "a")]),
    "old mac line ends": (
        (HEADER + "1.png,a,\n2.png,b,\n").replace("\n", "\r"),
        [("1.png", "a"), ("2.png", "b")],
    ),
    "byte-order mark": (b"\xef\xbb\xbf" + content(HEADER + "1.png,a,\n"), [("1.png", "a")]),
    "byte-order mark and quotes": (b'\xef\xbb\xbf"filepath","title"\n1.png,a\n', [("1.png", "a")]),
    "blank lines": (f"\n{HEADER}\n1.png,a,\n  \n\n2.png,b,\n\n", [("1.png", "a"), ("2.png", "b")]),
    "separator in quotes": (HEADER + '1.png,"a, b",\n', [("1.png", "a, b")]),
    "doubled marks": (HEADER + '1.png,"a ""b"" c",\n', [("1.png", 'a "b" c')]),
    "a mark in mid-text": (
        HEADER + '1.png,5" nodule,\n2.png,b,\n',
        [("1.png", '5" nodule'), ("2.png", "b")],
    ),
    "a mark at the end": (
        TABS + '1.png\tgrows 5"\t\n2.png\tb\t\n',
        [("1.png", 'grows 5"'), ("2.png", "b")],
    ),
    "a report of lines": (
        HEADER + '1.png,"FINDINGS: x, y\n\nIMPRESSION:\nnormal, stable",\n2.png,b,\n',
        [("1.png", "FINDINGS: x, y\n\nIMPRESSION:\nnormal, stable"), ("2.png", "b")],
    ),
    "lines with as many fields": (
        'filepath,title\np1.png,"Levels:\nT4, T5"\np2.png,b\n',
        [("p1.png", "Levels:\nT4, T5"), ("p2.png", "b")],
    ),
    "ids and lines with as many fields": (
        'filepath,title\np1,"Levels:\nT4,T5\nL1,L2"\np2,b\n',
        [("p1", "Levels:\nT4,T5\nL1,L2"), ("p2", "b")],
    ),
    "tabs in lines": (TABS + '1.png\t"a\tb\nc"\t\n', [("1.png", "a\tb\nc")]),
    "index of pandas": (
        ",filepath,title\n0,1.png,a\n1,2.png,b\n",
        [("1.png", "a"), ("2.png", "b")],
    ),
    "two columns without a name": ("filepath,title,,\n1.png,a,,\n", [("1.png", "a")]),
    "apostrophes": (HEADER + "1.png,'a,\n2.png,b',\n", [("1.png", "'a"), ("2.png", "b'")]),
}


@pytest.mark.parametrize("name", VALID)
def test_every_row_of_a_valid_table_is_read(name: str, tmp_path: Path) -> None:
    text, expected = VALID[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content(text))
    table = read_csv_table(path, CsvColumns())
    images = [str(image.relative_to(tmp_path)) for image in table.images]
    assert list(zip(images, table.captions)) == expected
    if "\t" not in str(text):  # `prepare` reads tables with commas only
        frame = read_table(path, ["filepath"])
        assert frame["title"].tolist() == [caption for _, caption in expected]


def test_rows_of_several_lines_are_named_by_number_and_line(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(HEADER + '1.png,"a\r\nb\nc",\n\n2.png,,\n')
    table = read_csv_table(path, CsvColumns())
    assert [table.name(i) for i in (0, 1)] == [f"{path}, row 1", f"{path}, row 2 (line 6)"]
    assert table.keep([1]).name(0) == f"{path}, row 2 (line 6)"
    messages = [str(fault) for fault in check_table(table).faults]
    start = f"{path}, row 2 (line 6), title: no caption"
    assert any(message.startswith(start) for message in messages)


def test_lines_are_counted_across_chunks(tmp_path: Path) -> None:
    path, count = tmp_path / "t.csv", CHUNK + 7
    path.write_text(HEADER + '0.png,"a\nb",\n' + "".join(f"{i}.png,t,\n" for i in range(1, count)))
    table = read_table_text(path)
    assert len(table.frame) == count and table.frame["filepath"].iloc[-1] == f"{count - 1}.png"
    assert table.lines[[0, 1, -1]].tolist() == [2, 4, count + 2]
    path.write_text(HEADER + "".join(f"{i}.png,t,\n" for i in range(count)) + '9.png,"t,\n')
    message = f"line {count + 2}: the quotation that opens there never closes"
    with pytest.raises(DataError, match=message):
        read_table_text(path)


@pytest.mark.parametrize("suffix", [".gz", ".zip"])
def test_compressed_tables_are_read_by_the_same_rules(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.csv{suffix}"
    for text, message in (("a,b\n1,2\n", None), ('a,b\n1,"2\n', "line 2: the quotation")):
        if suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        else:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("t.csv", text)
        if message is None:
            assert read_table(path, ["a"]).to_dict("records") == [{"a": "1", "b": "2"}]
        else:
            with pytest.raises(DataError, match=message):
                read_table(path, ["a"])
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(DataError, match="not a readable table"):
        read_table(path, ["a"])


# ---- broken tables: the content, and the message with its line

ROWS = "".join(f"{i}.png\tFinding {i}\t\n" for i in range(9))
BROKEN = {
    "two texts that begin with a mark": (
        TABS + '1.png\t"Finding\th.png\n2.png\tb\t\n3.png\t"Finding\t\n',
        "line 2: .* closes in line 4, followed by 'Finding",
    ),
    "a mark at the beginning, one at an end": (
        TABS + '1.png\t"Finding\t\n2.png\tb\t\n3.png\tc"\t\n' + ROWS,
        "line 2, column 'title': .*another row",
    ),
    "the same with commas": (
        HEADER + '1.png,"a,\n2.png,b,\n3.png,c",\n4.png,d,\n5.png,e,\n',
        "line 2, column 'title': .*another row",
    ),
    "one row swallowed": (
        HEADER + '1.png,"a,\n2.png,b",\n4.png,d,\n5.png,e,\n',
        "line 2, column 'title'",
    ),
    "with blank lines between": (
        HEADER + '1.png,"a,\n\n2.png,b,\n\n3.png,c",\n4.png,d,\n5.png,e,\n',
        "line 2, column 'title'",
    ),
    "in the last column": (
        'filepath,title\n1.png,"a\n2.png,b\n3.png,c"\n4.png,d\n',
        "line 2, column 'title'",
    ),
    "in the first column": (
        'title,filepath\n"a,1.png\nb,2.png\nc",3.png\nd,4.png\n',
        "line 2, column 'title'",
    ),
    "of ids": (
        'filepath,title\np10/s100,"a\np11/s205,b"\np12/s3,d\np13/s4,e\n',
        "line 2, column 'title'",
    ),
    "of names with blanks": (
        'filepath,title\nmy x 1.jpg,"a\nmy x 2.jpg,b"\nmy x 3.jpg,d\n',
        "line 2, column 'title'",
    ),
    "text behind a quotation": (
        HEADER + '1.png,"abc"def,\n',
        "line 2: .* followed by 'def,';",
    ),
    "a blank behind a quotation": (
        HEADER + '1.png,a,\n2.png,"abc" ,\n',
        "line 3: .* followed by ' ,';",
    ),
    "marks not doubled": (HEADER + '1.png,"he said "no" twice",\n', "line 2: .* followed by 'no"),
    "backslashes": (HEADER + '1.png,"he said \\"no\\" twice",\n', "line 2: .* followed by 'no"),
    "open at the end": (HEADER + '1.png,a,\n2.png,"b,\n', "line 3: .* never closes"),
    "open behind a report of lines": (HEADER + '1.png,"x\ny","b,\n', "line 3: .* never closes"),
    "separator without quotes": (
        HEADER + "1.png,clear, normal,h.png\n",
        "line 2: 4 fields, the header has 3",
    ),
    "line end without quotes": (
        HEADER + "1.png,clear\nnormal,h.png\n",
        "line 2: 2 fields, the header has 3",
    ),
    "a field short": (HEADER + "1.png,a,\n2.png,b\n", "line 3: 2 fields, the header has 3"),
    "a field more in every row": (
        "filepath,title\nx,1.png,a\ny,2.png,b\n",
        "line 2: 3 fields, the header has 2",
    ),
    "a separator more in every row": (
        "filepath,title\n1.png,a,\n2.png,b,\n",
        "line 2: 3 fields, the header has 2",
    ),
    "a carriage return in a text": (HEADER + "1.png,clear\rnormal,\n", "line 2: 2 fields"),
    "the header again": (
        HEADER + "1.png,a,\n" + HEADER + "2.png,b,\n",
        "line 3: the header once more",
    ),
    "a column twice": (
        "filepath,title,title\n1.png,a,b\n",
        "line 1: the header has a column 'title' twice",
    ),
    "a NUL byte": (content(HEADER) + b"1.png,a\0b,\n", "line 2: a NUL byte"),
    "UTF-16": (HEADER.encode("utf-16"), "line 1: begins as UTF-16"),
    "UTF-16 without a mark": (HEADER.encode("utf-16-le"), "line 1: a NUL byte"),
    "Latin-1": (
        content(HEADER) + b"1.png,a,\n2.png,opacit\xe9,\n",
        "line 3: byte 0xe9 is not UTF-8",
    ),
    "a half UTF-8 character at the end": (
        content(HEADER) + b"1.png,a,\n2.png,b,\xc3",
        "line 3: byte 0xc3 is not UTF-8",
    ),
    "Latin-1 in the header": (b"filepath,title,l\xe9sion\n1.png,a,\n", "line 1: byte 0xe9"),
    "nothing": ("", "empty; expected a table with the names"),
    "blank lines alone": ("\n\n \n", "empty; expected a table with the names"),
    "header alone": (HEADER, "no rows"),
    "semicolons": (
        HEADER.replace(",", ";") + "1.png;a;\n",
        "[Tt]he separator of the header seems to be ';'",
    ),
    "bars": (
        HEADER.replace(",", "|") + "1.png|a|\n",
        r"[Tt]he separator of the header seems to be '\|'",
    ),
    "a mark for Excel": (
        "sep=;\n" + HEADER.replace(",", ";") + "1.png;a;\n",
        "line 1: 'sep=;', a mark for Excel",
    ),
    "the same with commas, for Excel": (
        "sep=,\n" + HEADER + "1.png,a,\n",
        "line 1: 'sep=', a mark for Excel",
    ),
    "a workbook": (b"PK\x03\x04" + bytes(60), "line 1: begins as an Excel workbook or a zip"),
    "a picture": (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "line 3: a NUL byte"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_errors_of_broken_tables_name_the_line(name: str, tmp_path: Path) -> None:
    text, message = BROKEN[name]
    path = tmp_path / "t.csv"
    path.write_bytes(content(text))
    with pytest.raises(DataError, match=message) as error:
        read_csv_table(path, CsvColumns())
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_all_readers_apply_the_same_rules(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(BROKEN["the same with commas"][0])
    for read in (
        lambda: read_eval_set(path),
        lambda: read_table(path, ["filepath"]),
        lambda: read_sets([path], images=False, part="all"),
    ):
        with pytest.raises(DataError, match="line 2, column 'title': .*another row"):
            read()


def test_an_unused_column_may_occur_twice_in_a_published_table(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("id,note,note,,\n1,a,b,,\n")
    assert read_table(path, ["id"]).to_dict("records")[0]["note"] == "a"
    with pytest.raises(DataError, match="column 'note' twice"):
        read_table(path, ["note"])


@pytest.mark.parametrize(
    "separator,valid", [("\\t", True), ("\t", True), ("||", False), ('"', False), ("", True)]
)
def test_a_separator_is_one_character(separator: str, valid: bool, tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_text(TABS + "1.png\ta, b\t\n")
    if valid:
        assert read_csv_table(path, CsvColumns(separator=separator or None)).captions == ["a, b"]
    else:
        with pytest.raises(DataError, match="expected one character"):
            read_csv_table(path, CsvColumns(separator=separator))


# ---- column names and words for missing values


@pytest.mark.parametrize(
    "word", ["nan", "NaN", "NA", "None", "<NA>", "\\N", "NULL", "n/a", "#N/A", "-", " "]
)
def test_words_that_mean_no_file_count_as_blank_cells(word: str, tmp_path: Path) -> None:
    path = write_table(tmp_path, 4, annotated=[1, 2])
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line + word if line.endswith(",") else line for line in lines) + "\n")
    report = check_table(read_csv_table(path, CsvColumns()))
    assert not report.faults and report.annotated == 2
    other = read_csv_table(path, CsvColumns(), read_csv_table(path, CsvColumns()).locations)
    assert other.annotated == [1, 2]
    data = join_heatmaps(read_eval_set(path), "heatmap", None)
    assert len(data) == 2
    (tmp_path / "maps.csv").write_text(
        f"filepath,heatmap\n{data.ids[0]},{word}\n{data.ids[1]},images/2.npy\n"
    )
    assert join_heatmaps(read_eval_set(path), "heatmap", tmp_path / "maps.csv").ids == data.ids[1:]
    path.write_text(f"filepath,title\n{word},a b\n")
    (fault, *_) = check_table(read_csv_table(path, CsvColumns())).faults
    assert "row 1, filepath: blank; expected an image file" in str(fault)


@pytest.mark.parametrize(
    "column",
    [
        *("eye_gaze", "Expert map", "annotations", "fixation_map", "gaze", "MASK"),
        *("Heatmap", "heatmap ", "heatmaps", "heat_map", "heat map", "Heat-Map"),
        *("heatmap_path", "heatmpa"),
    ],
)
def test_heatmap_columns_of_similar_names_are_suggested(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_table(tmp_path, 3, annotated=[1, 2])
    path.write_text(path.read_text().replace("title,heatmap", f"title,{column}"))
    assert check_main([str(path), "--sheet", str(tmp_path / "s.png")]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert "3 samples, 0 annotated" in first
    assert f"Did you mean {column!r}?" in first
    assert "--csv-heatmap-key" in first
    assert check_main([str(path), "--csv-heatmap-key", "heatmap"]) == 1
    error = capsys.readouterr().err
    assert f"no column 'heatmap'; found ['filepath', 'title', {column!r}]" in error
    assert f"Did you mean {column!r}?" in error


def test_columns_of_other_names_are_not_suggested(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = write_table(tmp_path, 2, column=False)
    check_main([str(path), "--sheet", str(tmp_path / "s.png")])
    assert "Did you mean" not in capsys.readouterr().out
    for wanted, others in (
        ("heatmap", ["filepath", "title", "label", "study", "hospital"]),
        ("title", ["filepath", "label"]),
        ("label", ["title"]),
    ):
        assert near_names(wanted, others) == []


@pytest.mark.parametrize(
    "wanted,column",
    [
        ("filepath", "image"),
        ("filepath", "File Path"),
        ("title", "Report"),
        ("title", "captions"),
        ("label", "label "),
        ("label", "Labels"),
        ("windows", "window"),
        ("study", "Study"),
        ("patient", "patiant"),
    ],
)
def test_near_names_finds_the_similar_name(wanted: str, column: str) -> None:
    assert near_names(wanted, ["x", column, "y1"]) == [column]


def test_errors_of_evaluation_name_similar_columns_and_lines(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    path = tmp_path / "t.csv"
    path.write_text('filepath,title,label \n1.png,"a\nb",x\n1.png,c,nan\n')
    data = read_eval_set(path)
    assert data.name(1) == f"{path}, row 2 (line 4) (1.png)"
    with pytest.raises(ValueError, match="Did you mean 'label '?"):
        data.column("label")
    with pytest.raises(ValueError, match=r"row 2 \(line 4\) .*no label"):
        data.class_labels(["x", "y"], "label ")
    path.write_text("Filepath,title\n1.png,a\n")
    with pytest.raises(DataError, match="Did you mean 'Filepath'?"):
        read_eval_set(path)


@pytest.mark.parametrize(
    "member,value,message",
    [
        ("json", b"[1]", r"a.tar, k.json: \[1\]; expected an object"),
        ("json", b"{", "a.tar, k.json: not JSON"),
        ("json", b"[" * 100_000, "a.tar, k.json: not JSON"),
        ("json", b"\xff", "a.tar, k.json: not UTF-8"),
        ("json", b'{"a": ' + b"9" * 5000 + b"}", "a.tar, k.json: not JSON"),
        ("cls", b"\xff", "a.tar, k.cls: not UTF-8"),
        ("txt", b"opacit\xe9", "a.tar, k.txt: not UTF-8"),
    ],
)
def test_damaged_members_of_evaluation_shards_are_errors(
    member: str, value: bytes, message: str, tmp_path: Path
) -> None:
    path = write_shard(
        tmp_path / "a.tar", {"g.png": b"x", "g.txt": b"t", "k.png": b"x", f"k.{member}": value}
    )
    with pytest.raises(DataError, match=message):
        read_eval_set(path)
    data = read_eval_set(path, skip_bad=True)
    assert data.ids == ["a.tar/g"] and list(data.excluded) == ["a.tar/k"]


@pytest.mark.parametrize(
    "recipe,message",
    [
        (b"{", "not JSON"),
        (b"[]", "expected an object"),
        (b'{"classes": "ab"}', "expected a list of names"),
        (b'{"classes": [1]}', "expected a list of names"),
        (b'{"classes": ["a", "b", "a"]}', "class 'a' occurs twice"),
        (b'{"prompts": []}', r"prompts is \[\]; expected"),
        (b"\xff", "not UTF-8"),
    ],
)
def test_damaged_recipes_are_errors(recipe: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "t.csv").write_text("filepath\n1.png\n")
    for name in ("t.recipe.json", "classes.json"):
        (tmp_path / name).write_bytes(recipe)
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            read_eval_set(tmp_path / "t.csv")
        (tmp_path / name).unlink()
    (tmp_path / "classes.json").write_text(json.dumps({"classes": ["a", "b"]}))
    assert read_eval_set(tmp_path / "t.csv").recipe == {"classes": ["a", "b"]}


@pytest.mark.slow
def test_large_tables_are_read_in_seconds(tmp_path: Path) -> None:
    """200 000 quoted rows take one or two seconds of one core; the limit is 15."""
    import time

    path = tmp_path / "t.csv"
    rows = (f'images/{i:06d}.png,"opacity {i}, left\nstable",\n' for i in range(200_000))
    path.write_text(HEADER + "".join(rows))
    start = time.process_time()
    table = read_table_text(path)
    assert time.process_time() - start < 15
    assert len(table.frame) == 200_000
    assert np.array_equal(table.lines, np.arange(200_000) * 2 + 2)


@pytest.mark.parametrize("given", [None, "\\t", ","])
@pytest.mark.parametrize("header", ["filepath;title", "image;report;map"])
def test_a_table_with_another_separator_is_told_first(
    given: str | None, header: str, tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    path.write_text(f"{header}\n1.png;a;m.png\n")
    with pytest.raises(DataError, match="give --csv-separator ';', or save the table") as caught:
        read_csv_table(path, CsvColumns(separator=given))
    assert str(caught.value).startswith(f"{path}: the separator of the header seems to be ';'")
    assert "--csv-img-key" not in str(caught.value) and "\\t" not in str(caught.value)
