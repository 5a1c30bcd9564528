"""Raw data sets for `prepare`, gaze tables among them, and annotations for the gaze package."""
from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from .bombs import deflated, png_bomb
from .harness import ROOT, Case
from .world import Maker, put, rows, shard

sys.path.insert(0, str(ROOT / "tests"))
import mimic_trees as trees  # noqa: E402  (the exact on-disk form, as the tests of prepare have it)

Change = Callable[[Path], object]
TAIL = ("--size", 32, "--workers", 1)


def mimic(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        change(trees.write_mimic(folder / "mimic"))
        return ["prepare", "mimic-cxr", "mimic", "out", "--evaluation", "none", *TAIL, *flags]
    return make


def egd(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        trees.write_mimic(folder / "mimic")
        change(trees.write_egd(folder / "egd"))
        return ["prepare", "egd-cxr", "egd", "out", "--images", "mimic", "--sigma", 3, *TAIL, *flags]
    return make


def reflacx(change: Change, *flags: object) -> Maker:
    def make(folder: Path) -> list[object]:
        trees.write_mimic(folder / "mimic")
        change(trees.write_reflacx(folder / "reflacx"))
        return ["prepare", "reflacx", "reflacx", "out", "--images", "mimic", *TAIL, *flags]
    return make


def write(name: str, content: bytes | str) -> Change:
    return lambda root: (root / name).write_bytes(content.encode() if isinstance(content, str) else content)


def cell(name: str, row: int, column: str, value: object) -> Change:
    """A table with another cell; rows count from 1."""
    def change(root: Path) -> None:
        import pandas as pd
        frame = pd.read_csv(root / name, dtype=str, keep_default_na=False)
        frame.loc[row - 1, column] = str(value)
        frame.to_csv(root / name, index=False)
    return change


def without(name: str, column: str) -> Change:
    def change(root: Path) -> None:
        import pandas as pd
        pd.read_csv(root / name, dtype=str, keep_default_na=False).drop(columns=column).to_csv(root / name, index=False)
    return change


METADATA, SPLIT, LABELS = "mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-split.csv.gz", "mimic-cxr-2.0.0-chexpert.csv.gz"


def as_zip(name: str, members: dict[str, bytes]) -> Change:
    """The table as a zip of these members in the place of the .gz."""
    def change(root: Path) -> None:
        (root / name).unlink()
        with zipfile.ZipFile(root / name.replace(".gz", ".zip"), "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    return change


def _gz_damaged(root: Path) -> None:
    content = bytearray((root / METADATA).read_bytes())
    content[40:60] = b"\xff" * 20
    (root / METADATA).write_bytes(content)


def _mimic_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("MIMIC: no such folder", put({}, ["prepare", "mimic-cxr", "gone", "out"]), ("gone",)), ("MIMIC: no metadata", mimic(lambda root: (root / METADATA).unlink()), ("metadata",)), ("MIMIC: gz cut", mimic(lambda root: (root / METADATA).write_bytes((root / METADATA).read_bytes()[:80])), (METADATA,)),
        ("MIMIC: gz damaged", mimic(_gz_damaged), (METADATA,)), ("MIMIC: text named .gz", mimic(write(METADATA, "dicom_id\n")), (METADATA,)), ("MIMIC: empty gz", mimic(write(METADATA, b"")), (METADATA,)), ("MIMIC: gz of an empty table", mimic(write(METADATA, gzip.compress(b""))), (METADATA,)),
        ("MIMIC: zip of two tables", mimic(as_zip(METADATA, {"a.csv": b"a\n", "b.csv": b"b\n"})), ("metadata", ".zip")), ("MIMIC: zip of nothing", mimic(as_zip(METADATA, {})), ("metadata", ".zip")), ("MIMIC: zip of a picture", mimic(as_zip(METADATA, {"a.csv": b"\x89PNG\r\n\x1a\n" + bytes(range(256))})), ("metadata", ".zip")),
        ("MIMIC: encrypted zip", mimic(lambda root: [(root / METADATA).unlink(), write("mimic-cxr-2.0.0-metadata.csv.zip", _encrypted())(root)]), ("metadata", ".zip")), ("MIMIC: gz of 1.5 GB of one cell", mimic(write(METADATA, _gz_bomb())), (METADATA,)),
        ("MIMIC: no column of views", mimic(without(METADATA, "ViewPosition")), (METADATA, "ViewPosition")), ("MIMIC: a strange id", mimic(cell(METADATA, 2, "dicom_id", "../x")), (METADATA, "row 2")), ("MIMIC: an id twice", mimic(cell(METADATA, 2, "dicom_id", trees.dicom(0))), (METADATA, "row 2")),
        ("MIMIC: a patient of letters", mimic(cell(METADATA, 2, "subject_id", "abc")), (METADATA, "row 2", "subject_id")), ("MIMIC: an unknown split", mimic(cell(SPLIT, 3, "split", "valid")), (SPLIT, "row 3")), ("MIMIC: a label of 7", mimic(cell(LABELS, 1, "Edema", "7")), (LABELS, "row 1", "Edema")),
        ("MIMIC: no labels", mimic(lambda root: (root / LABELS).unlink()), ("chexpert",)), ("MIMIC: sectioned table of other columns", mimic(write("s.csv", "a,b\n1,2\n"), "--sectioned", "mimic/s.csv"), ("s.csv", "study")), ("MIMIC: excluded patients of other columns", mimic(write("x.csv", "a,b\n1,2\n"), "--exclude-subjects", "mimic/x.csv"), ("x.csv", "patient")),
        ("MIMIC: an unreadable image", mimic(lambda root: trees.film(root, 0).write_bytes(b"x")), (trees.dicom(0),)), ("MIMIC: an image of 3.6 GB", mimic(lambda root: trees.film(root, 0).write_bytes(png_bomb(60000, 60000))), (trees.dicom(0),)), ("MIMIC: a report that is a folder", mimic(_report_folder), ("s59000000.txt",)),
        ("prepare: --size 3", mimic(lambda root: None, "--size", 3), ("--size",)), ("prepare: --size big", mimic(lambda root: None, "--size", "big"), ("--size",)), ("prepare: --quality 0", mimic(lambda root: None, "--quality", 0), ("--quality",)), ("prepare: --workers 0", mimic(lambda root: None, "--workers", 0), ("--workers",)),
        ("prepare: --part 2/2", mimic(lambda root: None, "--part", "2/2"), ("--part",)), ("prepare: --limit -1", mimic(lambda root: None, "--limit", "-1"), ("--limit",)), ("prepare: --shard-size 0", mimic(lambda root: None, "--shard-size", 0), ("--shard-size",)), ("prepare: OUT of something else", mimic(lambda root: [(root.parent / "out").mkdir(), (root.parent / "out" / "x").write_text("")]), ("out",)),
        ("prepare: OUT is a file", mimic(lambda root: (root.parent / "out").write_text("")), ("out",)), ("prepare: OUT begun with broken settings", mimic(lambda root: [(root.parent / "out" / ".chunks").mkdir(parents=True), (root.parent / "out" / ".chunks" / "settings.json").write_text("{")]), ("settings.json",)),
        ("prepare: a broken record of a chunk", mimic(_broken_chunk), (".chunks", "train-000000.json")), ("prepare: an unknown data set", put({}, ["prepare", "mimic", "a", "b"]), ("mimic",)), ("prepare: phantoms of -1", put({}, ["prepare", "phantom", "out", "--train", "-1"]), ("train", "-1")),
        ("prepare: phantoms annotated twice over", put({}, ["prepare", "phantom", "out", "--annotated", 2]), ("annotated",)), ("prepare: phantoms annotated nan", put({}, ["prepare", "phantom", "out", "--annotated", "nan"]), ("annotated",)),
    ]


def _broken_chunk(root: Path) -> None:
    from .harness import run_command
    command = ["prepare", "mimic-cxr", "mimic", "out", "--evaluation", "none", *TAIL]
    run_command(command)
    (root.parent / "out" / ".chunks" / "train-000000.json").write_text("{")


def _report_folder(root: Path) -> None:
    path = trees.report_path(root, *trees.FILMS[0][:2])
    path.unlink()
    path.mkdir()


def _encrypted() -> bytes:
    from .bombs import zipped
    content = b"dicom_id\n1\n"
    return zipped("a.csv", deflated(content, 0), len(content), flags=1)


def _gz_bomb() -> bytes:
    head = gzip.compress(b"")[:10]
    return head + deflated(b"dicom_id,subject_id,study_id,ViewPosition\n", 1500 << 20) + bytes(8)


def _gaze_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    sheet, fixations, metadata = "master_sheet.csv", "fixations.csv", "main_data/metadata_phase_1.csv"
    reading = "main_data/P101R000001"
    yield from [
        ("EGD: no sheet", egd(lambda root: (root / sheet).unlink()), (sheet,)), ("EGD: no column of paths", egd(without(sheet, "path")), (sheet, "path")), ("EGD: a strange path", egd(cell(sheet, 2, "path", "files/x.dcm")), (sheet, "row 2", "path")), ("EGD: a film twice", egd(cell(sheet, 2, "dicom_id", trees.dicom(0))), (sheet, "row 2")),
        ("EGD: no positions", egd(without(fixations, "X_ORIGINAL")), (fixations, "X_ORIGINAL")), ("EGD: positions of text", egd(lambda root: _all_cells(root / fixations, "X_ORIGINAL", "left")), (fixations, "X_ORIGINAL|position|number")), ("EGD: fixations of an empty file", egd(write(fixations, "")), (fixations,)), ("EGD: fixations of bytes", egd(write(fixations, b"\xff\xfe\0")), (fixations,)),
        ("EGD: a broken transcript", egd(lambda root: trees.write_transcript(root, 0, []).write_text("{"), "--windows", "sentence"), ("transcript.json",)), ("EGD: a transcript of a list", egd(lambda root: trees.write_transcript(root, 0, []).write_text("[1]"), "--windows", "sentence"), ("transcript.json",)),
        ("EGD: a transcript of brackets", egd(lambda root: trees.write_transcript(root, 0, []).write_text("[" * 100000), "--windows", "sentence"), ("transcript.json",)), ("EGD: a transcript of bytes", egd(lambda root: trees.write_transcript(root, 0, []).write_bytes(b"\xff\xfe"), "--windows", "sentence"), ("transcript.json",)),
        ("EGD: words of endless times", egd(lambda root: trees.write_transcript(root, 0, []).write_text('{"time_stamped_text": [{"phrase": "A.", "begin_time": 1, "end_time": ' + "9" * 400 + "}]}"), "--windows", "sentence"), ("transcript.json",)),
        ("EGD: pads beyond the screen", egd(cell(sheet, 1, "image_left_pad", 5000), "--positions", "screen"), (sheet, "row 1")), ("EGD: --sigma 0", egd(lambda root: None, "--sigma", 0), ("sigma",)), ("EGD: --sigma nan", egd(lambda root: None, "--sigma", "nan"), ("sigma",)), ("EGD: --sigma inf", egd(lambda root: None, "--sigma", "inf"), ("sigma",)),
        ("EGD: --unit degrees", egd(lambda root: None, "--unit", "degrees"), ("--unit",)), ("EGD: --lead -1", egd(lambda root: None, "--lead", "-1"), ("--lead",)), ("EGD: --lead nan", egd(lambda root: None, "--lead", "nan"), ("--lead",)),
        ("REFLACX: no metadata", reflacx(lambda root: (root / metadata).unlink()), ("metadata_phase_1",)), ("REFLACX: no column of sizes", reflacx(without(metadata, "image_size_x")), ("metadata_phase_1.csv", "image_size_x")), ("REFLACX: a size of 0", reflacx(cell(metadata, 2, "image_size_x", 0)), ("metadata_phase_1.csv", "row 2", "image_size_x")),
        ("REFLACX: a size in superscript", reflacx(cell(metadata, 2, "image_size_x", "²")), ("metadata_phase_1.csv", "row 2", "image_size_x")), ("REFLACX: an id out of the folder", reflacx(cell(metadata, 1, "id", "../../x")), ("metadata_phase_1.csv", "row 1", "id")), ("REFLACX: a label of text", reflacx(cell(metadata, 1, "Consolidation", "much")), ("metadata_phase_1.csv", "row 1", "Consolidation")),
        ("REFLACX: no fixation times", reflacx(without(f"{reading}/fixations.csv", "timestamp_start_fixation")), ("fixations.csv", "timestamp_start_fixation")), ("REFLACX: fixations of a picture", reflacx(write(f"{reading}/fixations.csv", b"\x89PNG\r\n\x1a\n\0\xff")), ("fixations.csv",)),
        ("REFLACX: ellipses without columns", reflacx(without(f"{reading}/anomaly_location_ellipses.csv", "xmin"), "--annotation", "ellipses"), ("ellipses.csv", "xmin")), ("REFLACX: two chest boxes", reflacx(write(f"{reading}/chest_bounding_box.csv", "xmin,ymin,xmax,ymax\n1,2,3,4\n1,2,3,4\n"), "--annotation", "chest-box"), ("chest_bounding_box.csv",)),
        ("REFLACX: words without times", reflacx(without(f"{reading}/timestamps_transcription.csv", "word"), "--windows", "sentence"), ("timestamps_transcription.csv", "word")), ("REFLACX: degrees for boxes", reflacx(lambda root: None, "--annotation", "chest-box", "--sigma", 1, "--unit", "degrees"), ("--unit",)),
    ]


def _all_cells(path: Path, column: str, value: str) -> None:
    import pandas as pd
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame[column] = value
    frame.to_csv(path, index=False)


# annotation given to the gaze package: the table as the user has it, and what draws it
DRAW = """
import sys
import pandas as pd
from openclip_eclip.config import UserError
from openclip_eclip.gaze import Boxes, Ellipses, Fixations, Polygons, RenderConfig, decode_rle, render
try:
    {work}
except UserError as error:
    sys.exit(f"error: {{error}}")
"""


def draw(work: str) -> Maker:
    def make(folder: Path) -> list[object]:
        (folder / "draw.py").write_text(DRAW.format(work=work))
        return ["example", folder.absolute() / "draw.py"]
    return make


def _annotation_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    yield from [
        ("fixations of text", draw("Fixations(['left'], [1], [1])"), ("fixations", "x")), ("fixations of two lengths", draw("Fixations([1, 2], [1], [1])"), ("fixations", "y")), ("fixations in degrees without resolution", draw("render(Fixations([1], [1], [1]), (48, 48), 32, RenderConfig(1, 'degrees'))"), ("degree",)),
        ("fixations: sigma NaN", draw("render(Fixations([1], [1], [1]), (48, 48), 32, RenderConfig(float('nan')))"), ("sigma",)), ("fixations: an image of no pixel", draw("render(Fixations([1], [1], [1]), (0, 48), 32, RenderConfig(3))"), ("size|height|image",)), ("boxes of three corners", draw("Boxes([[1, 2, 3]])"), ("box", "shape")),
        ("boxes of a text", draw("Boxes([['a', 1, 2, 3]])"), ("box",)), ("ellipses of a wrong certainty", draw("render(Ellipses([[1, 1, 9, 9]], certainty=[1, 2]), (48, 48), 32, RenderConfig())"), ("certainty",)), ("a polygon of three columns", draw("Polygons([[[1, 2, 3]]])"), ("polygon",)),
        ("RLE cut", draw("decode_rle('1 2 3', (4, 4), 'kaggle')"), ("rle",)), ("RLE beyond the image", draw("decode_rle('1 200', (4, 4), 'kaggle')"), ("rle",)), ("RLE of text", draw("decode_rle('a b', (4, 4), 'siim')"), ("rle",)), ("RLE of 30 digits", draw("decode_rle('1 " + "9" * 30 + "', (4, 4), 'kaggle')"), ("rle",)),
        ("RLE of an unknown kind", draw("decode_rle('1 2', (4, 4), 'png')"), ("rle", "png")), ("COCO of strange characters", draw("decode_rle('\\x01', (4, 4), 'coco')"), ("rle",)), ("COCO of an endless number", draw("decode_rle('" + "o" * 60 + "0', (4, 4), 'coco')"), ("rle",)),
        ("windows that end before they start", draw("Fixations([1], [1], [1], start=[0]).between(2, 1)"), ("between",)),
    ]


def open_i(files: dict[str, bytes | str], *flags: object) -> Maker:
    return put({f"src/{name}": content for name, content in files.items()}, ["prepare", "open-i", "src", "out", "--views", "all", *TAIL, *flags])


XML = '<?xml version="1.0"?><eCitation><uId id="CXR1"/><MedlineCitation><AbstractText Label="FINDINGS">Clear.</AbstractText></MedlineCitation><parentImage id="CXR1_1_IM-0001-3001"/></eCitation>'


def _tar(members: Sequence[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = len(content) if kind == tarfile.REGTYPE else 0, kind, "/etc/passwd"
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _other_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    one, tgz = "ecgen-radiology/1.xml", "NLMCXR_reports.tgz"
    entity = '<!DOCTYPE x [<!ENTITY a "' + "x" * 100 + '">' + "".join(f'<!ENTITY b{i} "&a;&a;&a;">' for i in range(9)) + "]>"
    given = {"kaggle_labels": "stage_2_train_labels.csv"}["kaggle_labels"]
    rsna = "patientId,x,y,width,height,Target\n" + "".join(f"id{i},,,,,0\n" for i in range(9))
    authors = {"m.frontal_img": b"x", "m.report": b"Text."}
    yield from [
        ("Open-I: no reports", open_i({"a.txt": ""}), ("src", "indiana_reports.csv|report")), ("Open-I: broken XML", open_i({one: "<eCitation>"}), ("1.xml",)), ("Open-I: entities that expand", open_i({one: XML.replace("?>", "?>" + entity)}), ("1.xml", "entity|document type")), ("Open-I: entities in UTF-16", open_i({one: XML.replace("?>", "?>" + entity).encode("utf-16")}), ("1.xml",)),
        ("Open-I: an outside entity", open_i({one: XML.replace("?>", '?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>')}), ("1.xml",)), ("Open-I: XML of no report", open_i({one: "<a/>"}), ("1.xml", "uId")), ("Open-I: XML 100 000 deep", open_i({one: "<a>" * 100000 + "</a>" * 100000}), ("1.xml",)),
        ("Open-I: XML of 2 MB", open_i({one: XML.replace("Clear.", "x" * (2 << 20))}), ("1.xml",)), ("Open-I: a film of a strange name", open_i({one: XML.replace("CXR1_1_IM-0001-3001", "../../x")}), ("x", "report 1|1.xml")), ("Open-I: a report twice", open_i({one: XML, "ecgen-radiology/2.xml": XML}), ("1", "twice")),
        ("Open-I: archive cut", open_i({tgz: _tar([("ecgen-radiology/1.xml", XML.encode() * 50)])[:120]}), (tgz,)), ("Open-I: archive of text", open_i({tgz: "hello"}), (tgz,)), ("Open-I: archive damaged", open_i({tgz: _damaged(_tar([("a/1.xml", XML.encode())] * 30))}), (tgz,)), ("Open-I: archive of links", open_i({tgz: _tar([("a/1.xml", b"")], tarfile.SYMTYPE)}), ("report",)),
        ("Open-I: archive of 1.5 GB", open_i({tgz: _tar_bomb()}), (tgz,)), ("Open-I: Kaggle's table without uid", open_i({"indiana_reports.csv": "a,b\n1,2\n"}), ("indiana_reports.csv", "uid")), ("Open-I: uid in superscript", open_i({"indiana_reports.csv": "uid,Problems,findings,impression\n²,a,b,c\n"}), ("indiana_reports.csv", "row 1", "uid")),
        ("Open-I: views of other words", open_i({one: XML, "v.csv": "filename,projection\n1_IM-0001-3001.dcm.png,Side\n"}, "--views", "src/v.csv"), ("v.csv", "row 1")), ("Open-I: no folder of images", open_i({one: XML}, "--images", "gone"), ("gone",)), ("Open-I: --seed -1", open_i({one: XML}, "--seed", "-1"), ("--seed",)),
        ("RSNA: Target 2", put({f"src/{given}": rsna.replace("id3,,,,,0", "id3,,,,,2")}, ["prepare", "rsna", "src", "out"]), (given, "row 4", "Target")), ("RSNA: a box off the image", put({f"src/{given}": rsna.replace("id3,,,,,0", "id3,1000,1,90,9,1")}, ["prepare", "rsna", "src", "out"]), (given, "row 4")), ("RSNA: a box of text", put({f"src/{given}": rsna.replace("id3,,,,,0", "id3,a,1,90,9,1")}, ["prepare", "rsna", "src", "out"]), (given, "row 4")),
        ("RSNA: an id out of the folder", put({f"src/{given}": rsna.replace("id3,", "../id3,")}, ["prepare", "rsna", "src", "out"]), (given, "row 4", "patientId")), ("RSNA: two rows", put({f"src/{given}": "\n".join(rsna.splitlines()[:3])}, ["prepare", "rsna", "src", "out"]), ("2 images",)), ("RSNA: --seed -1", put({f"src/{given}": rsna}, ["prepare", "rsna", "src", "out", "--seed", "-1"]), ("--seed",)),
        ("RSNA: not one image there", put({"src/test_labels.csv": rsna}, ["prepare", "rsna", "src", "out", "--evaluation", "none"]), ("9", "id0")), ("NIH: no table", put({"src/a": ""}, ["prepare", "nih-cxr14", "src", "out"]), ("Data_Entry_2017",)), ("NIH: a strange label", put({"src/Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID\n00000001_000.png,Cough,1\n"}, ["prepare", "nih-cxr14", "src", "out", "--split", "none"]), ("Data_Entry_2017.csv", "row 1", "Finding Labels")),
        ("NIH: a patient in superscript", put({"src/Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,¹\n"}, ["prepare", "nih-cxr14", "src", "out", "--split", "none"]), ("Data_Entry_2017.csv", "row 1")), ("NIH: no lists", put({"src/Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,1\n"}, ["prepare", "nih-cxr14", "src", "out"]), ("train_val_list.txt",)),
        ("NIH: a list of bytes", put({"src/Data_Entry_2017.csv": "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,1\n", "src/train_val_list.txt": b"\xff\xfe"}, ["prepare", "nih-cxr14", "src", "out"]), ("train_val_list.txt",)), ("CheXpert: no table", put({"src/a": ""}, ["prepare", "chexpert", "src", "out"]), ("train.csv",)),
        ("CheXpert: a strange path", put({"src/train.csv": "Path,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\nx.jpg,,,,,\n"}, ["prepare", "chexpert", "src", "out", "--evaluation", "none"]), ("train.csv", "row 1", "Path")), ("CheXpert: too few for 5x200", put({"src/train.csv": "Path,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural Effusion\na/train/patient1/study1/v_frontal.jpg,,,,,\n"}, ["prepare", "chexpert", "src", "out"]), ("200|Atelectasis",)),
        ("eclip-shards: none", put({"src/a": ""}, ["prepare", "eclip-shards", "src", "out"]), ("src",)), ("eclip-shards: not a tar", put({"src/train/a.tar": "hello" * 300}, ["prepare", "eclip-shards", "src", "out"]), ("a.tar",)), ("eclip-shards: an unreadable image", _authors(authors), ("a.tar", "m")),
        ("eclip-shards: a manifest of brackets", _experts({"manifest.json": b"[" * 100000}), ("e.tar", "m", "manifest")), ("eclip-shards: a manifest of text", _experts({"manifest.json": b"x"}), ("e.tar", "m", "manifest")), ("eclip-shards: a pickled map", _experts({"h.npz": b"\x80\4cos\nsystem\n."}), ("e.tar", "m", "h.npz")), ("eclip-shards: a map as JSON of 10^12 cells", _experts({"h.npz": json.dumps({"shape": [10**6, 10**6], "indices": [], "indptr": [0], "data": []}).encode()}), ("e.tar", "m", "h.npz")),
        ("eclip-shards: a map as JSON of brackets", _experts({"h.npz": b"[" * 100000}), ("e.tar", "m", "h.npz")), ("eclip-shards: a map of endless numbers", _experts({"h.npz": b'{"shape": [1e999, 4], "indices": [], "indptr": [], "data": []}'}), ("e.tar", "m", "h.npz")), ("pseudo-heatmaps: no such table", put({}, ["prepare", "pseudo-heatmaps", "out", "--data", "gone.csv", "--model", "RN50", "--pretrained", "random"]), ("gone.csv",)),
        ("pseudo-heatmaps: all annotated", put({"t.csv": "\n".join([rows()[0], rows()[2]])}, ["prepare", "pseudo-heatmaps", "out", "--data", "t.csv", "--model", _tiny(), "--pretrained", ""]), ("heatmap|t.csv|weights",)), ("pseudo-heatmaps: --batch-size 0", put({"t.csv": "\n".join(rows())}, ["prepare", "pseudo-heatmaps", "out", "--data", "t.csv", "--model", _tiny(), "--batch-size", 0]), ("--batch-size",)),
        ("example 05 onto a file", lambda folder: [(folder / "x").write_text(""), ["example", "05_gaze_to_heatmap.py", "x"]][1], ("x",)),
    ]


def _tiny() -> str:
    from .world import model
    return model()


def _damaged(content: bytes) -> bytes:
    return content[:len(content) // 2] + b"\xff" * 30 + content[len(content) // 2 + 30:]


def _tar_bomb() -> bytes:
    info = tarfile.TarInfo("ecgen-radiology/1.xml")
    info.size = 1500 << 20
    return gzip.compress(b"")[:10] + deflated(info.tobuf(tarfile.USTAR_FORMAT), 1500 << 20) + bytes(8)


def _authors(members: dict[str, bytes]) -> Maker:
    def make(folder: Path) -> list[object]:
        (folder / "src" / "train").mkdir(parents=True)
        shard(folder / "src" / "train" / "a.tar", members)
        return ["prepare", "eclip-shards", "src", "out", *TAIL]
    return make


def _experts(changes: dict[str, bytes]) -> Maker:
    def make(folder: Path) -> list[object]:
        from .world import png, pixels
        (folder / "src" / "train").mkdir(parents=True)
        (folder / "expert").mkdir()
        shard(folder / "src" / "train" / "a.tar", {"m.frontal_img": png(pixels(0)), "m.report": b"Text."})
        members = {"img.jpg": png(pixels(0)), "report.txt": b"Text.", "manifest.json": b'[{"heatmap": "h.npz"}]', "h.npz": b"PK", **changes}
        shard(folder / "expert" / "e.tar", {f"m.{name}": content for name, content in members.items()})
        return ["prepare", "eclip-shards", "src", "out", "--expert", "expert", *TAIL]
    return make


def cases() -> Iterator[Case]:
    yield from (Case(name, "raw data sets", make, words) for name, make, words in (*_mimic_cases(), *_other_cases()))
    yield from (Case(name, "gaze tables", make, words) for name, make, words in (*_gaze_cases(), *_annotation_cases()))
