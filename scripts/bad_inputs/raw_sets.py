"""The other raw data sets of `prepare`: Open-I, RSNA, NIH, CheXpert, the authors' shards,
pseudo-heatmaps.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Iterator, Sequence

from .bombs import deflated
from .harness import Case
from .mimic import TAIL
from .world import Maker, put, rows


def open_i(files: dict[str, bytes | str], *flags: object) -> Maker:
    return put(
        {f"src/{name}": content for name, content in files.items()},
        ["prepare", "open-i", "src", "out", "--views", "all", *TAIL, *flags],
    )


XML = (
    '<?xml version="1.0"?><eCitation><uId id="CXR1"/><MedlineCitation><AbstractText'
    ' Label="FINDINGS">Clear.</AbstractText></MedlineCitation><parentImage'
    ' id="CXR1_1_IM-0001-3001"/></eCitation>'
)


def _tar(members: Sequence[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size, info.type, info.linkname = (
                len(content) if kind == tarfile.REGTYPE else 0,
                kind,
                "/etc/passwd",
            )
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _other_cases() -> Iterator[tuple[str, Maker, tuple[str, ...]]]:
    xml_file, tgz = "ecgen-radiology/1.xml", "NLMCXR_reports.tgz"
    entity = (
        '<!DOCTYPE x [<!ENTITY a "'
        + "x" * 100
        + '">'
        + "".join(f'<!ENTITY b{i} "&a;&a;&a;">' for i in range(9))
        + "]>"
    )
    given = {"kaggle_labels": "stage_2_train_labels.csv"}["kaggle_labels"]
    rsna = "patientId,x,y,width,height,Target\n" + "".join(f"id{i},,,,,0\n" for i in range(9))
    yield from [
        ("Open-I: no reports", open_i({"a.txt": ""}), ("src", "indiana_reports.csv|report")),
        ("Open-I: broken XML", open_i({xml_file: "<eCitation>"}), ("1.xml",)),
        (
            "Open-I: entities that expand",
            open_i({xml_file: XML.replace("?>", "?>" + entity)}),
            ("1.xml", "entity|document type"),
        ),
        (
            "Open-I: entities in UTF-16",
            open_i({xml_file: XML.replace("?>", "?>" + entity).encode("utf-16")}),
            ("1.xml",),
        ),
        (
            "Open-I: an outside entity",
            open_i(
                {
                    xml_file: XML.replace(
                        "?>", '?><!DOCTYPE x [<!ENTITY y SYSTEM "file:///etc/passwd">]>'
                    )
                }
            ),
            ("1.xml",),
        ),
        ("Open-I: XML of no report", open_i({xml_file: "<a/>"}), ("1.xml", "uId")),
        (
            "Open-I: XML 100 000 deep",
            open_i({xml_file: "<a>" * 100000 + "</a>" * 100000}),
            ("1.xml",),
        ),
        (
            "Open-I: XML of 2 MB",
            open_i({xml_file: XML.replace("Clear.", "x" * (2 << 20))}),
            ("1.xml",),
        ),
        (
            "Open-I: an image with a strange name",
            open_i({xml_file: XML.replace("CXR1_1_IM-0001-3001", "../../x")}),
            ("x", "report 1|1.xml"),
        ),
        (
            "Open-I: a report twice",
            open_i({xml_file: XML, "ecgen-radiology/2.xml": XML}),
            ("1", "twice"),
        ),
        (
            "Open-I: archive cut",
            open_i({tgz: _tar([("ecgen-radiology/1.xml", XML.encode() * 50)])[:120]}),
            (tgz,),
        ),
        ("Open-I: archive of text", open_i({tgz: "hello"}), (tgz,)),
        (
            "Open-I: archive damaged",
            open_i({tgz: _damaged(_tar([("a/1.xml", XML.encode())] * 30))}),
            (tgz,),
        ),
        (
            "Open-I: archive of links",
            open_i({tgz: _tar([("a/1.xml", b"")], tarfile.SYMTYPE)}),
            ("report",),
        ),
        ("Open-I: archive of 1.5 GB", open_i({tgz: _tar_bomb()}), (tgz,)),
        (
            "Open-I: Kaggle's table without uid",
            open_i({"indiana_reports.csv": "a,b\n1,2\n"}),
            ("indiana_reports.csv", "uid"),
        ),
        (
            "Open-I: uid in superscript",
            open_i({"indiana_reports.csv": "uid,Problems,findings,impression\n²,a,b,c\n"}),
            ("indiana_reports.csv", "row 1", "uid"),
        ),
        (
            "Open-I: views of other words",
            open_i(
                {xml_file: XML, "v.csv": "filename,projection\n1_IM-0001-3001.dcm.png,Side\n"},
                "--views",
                "src/v.csv",
            ),
            ("v.csv", "row 1"),
        ),
        ("Open-I: no folder of images", open_i({xml_file: XML}, "--images", "gone"), ("gone",)),
        ("Open-I: --seed -1", open_i({xml_file: XML}, "--seed", "-1"), ("--seed",)),
        (
            "RSNA: Target 2",
            put(
                {f"src/{given}": rsna.replace("id3,,,,,0", "id3,,,,,2")},
                ["prepare", "rsna", "src", "out"],
            ),
            (given, "row 4", "Target"),
        ),
        (
            "RSNA: a box off the image",
            put(
                {f"src/{given}": rsna.replace("id3,,,,,0", "id3,1000,1,90,9,1")},
                ["prepare", "rsna", "src", "out"],
            ),
            (given, "row 4"),
        ),
        (
            "RSNA: a box of text",
            put(
                {f"src/{given}": rsna.replace("id3,,,,,0", "id3,a,1,90,9,1")},
                ["prepare", "rsna", "src", "out"],
            ),
            (given, "row 4"),
        ),
        (
            "RSNA: an id out of the folder",
            put(
                {f"src/{given}": rsna.replace("id3,", "../id3,")}, ["prepare", "rsna", "src", "out"]
            ),
            (given, "row 4", "patientId"),
        ),
        (
            "RSNA: two rows",
            put(
                {f"src/{given}": "\n".join(rsna.splitlines()[:3])},
                ["prepare", "rsna", "src", "out"],
            ),
            ("2 images",),
        ),
        (
            "RSNA: --seed -1",
            put({f"src/{given}": rsna}, ["prepare", "rsna", "src", "out", "--seed", "-1"]),
            ("--seed",),
        ),
        (
            "RSNA: no image in the folder",
            put(
                {"src/test_labels.csv": rsna},
                ["prepare", "rsna", "src", "out", "--evaluation", "none"],
            ),
            ("9", "id0"),
        ),
        (
            "NIH: no table",
            put({"src/a": ""}, ["prepare", "nih-cxr14", "src", "out"]),
            ("Data_Entry_2017",),
        ),
        (
            "NIH: a strange label",
            put(
                {
                    "src/Data_Entry_2017.csv": (
                        "Image Index,Finding Labels,Patient ID\n00000001_000.png,Cough,1\n"
                    )
                },
                ["prepare", "nih-cxr14", "src", "out", "--split", "none"],
            ),
            ("Data_Entry_2017.csv", "row 1", "Finding Labels"),
        ),
        (
            "NIH: a patient in superscript",
            put(
                {
                    "src/Data_Entry_2017.csv": (
                        "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,¹\n"
                    )
                },
                ["prepare", "nih-cxr14", "src", "out", "--split", "none"],
            ),
            ("Data_Entry_2017.csv", "row 1"),
        ),
        (
            "NIH: no lists",
            put(
                {
                    "src/Data_Entry_2017.csv": (
                        "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,1\n"
                    )
                },
                ["prepare", "nih-cxr14", "src", "out"],
            ),
            ("train_val_list.txt",),
        ),
        (
            "NIH: a list of bytes",
            put(
                {
                    "src/Data_Entry_2017.csv": (
                        "Image Index,Finding Labels,Patient ID\n00000001_000.png,Mass,1\n"
                    ),
                    "src/train_val_list.txt": b"\xff\xfe",
                },
                ["prepare", "nih-cxr14", "src", "out"],
            ),
            ("train_val_list.txt",),
        ),
        (
            "CheXpert: no table",
            put({"src/a": ""}, ["prepare", "chexpert", "src", "out"]),
            ("train.csv",),
        ),
        (
            "CheXpert: a strange path",
            put(
                {
                    "src/train.csv": (
                        "Path,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural"
                        " Effusion\nx.jpg,,,,,\n"
                    )
                },
                ["prepare", "chexpert", "src", "out", "--evaluation", "none"],
            ),
            ("train.csv", "row 1", "Path"),
        ),
        (
            "CheXpert: too few for 5x200",
            put(
                {
                    "src/train.csv": (
                        "Path,Atelectasis,Cardiomegaly,Consolidation,Edema,Pleural"
                        " Effusion\na/train/patient1/study1/v_frontal.jpg,,,,,\n"
                    )
                },
                ["prepare", "chexpert", "src", "out"],
            ),
            ("200|Atelectasis",),
        ),
        (
            "pseudo-heatmaps: no such table",
            put(
                {},
                [
                    "prepare",
                    "pseudo-heatmaps",
                    "out",
                    *("--data", "gone.csv"),
                    *("--model", "RN50"),
                    *("--pretrained", "random"),
                ],
            ),
            ("gone.csv",),
        ),
        (
            "pseudo-heatmaps: all annotated",
            put(
                {"t.csv": "\n".join([rows()[0], rows()[2]])},
                [
                    "prepare",
                    "pseudo-heatmaps",
                    "out",
                    *("--data", "t.csv"),
                    *("--model", _tiny()),
                    *("--pretrained", ""),
                ],
            ),
            ("heatmap|t.csv|weights",),
        ),
        (
            "pseudo-heatmaps: --batch-size 0",
            put(
                {"t.csv": "\n".join(rows())},
                [
                    "prepare",
                    "pseudo-heatmaps",
                    "out",
                    *("--data", "t.csv"),
                    *("--model", _tiny()),
                    *("--batch-size", 0),
                ],
            ),
            ("--batch-size",),
        ),
        (
            "example 05 onto a file",
            lambda folder: [
                (folder / "x").write_text(""),
                ["example", "05_gaze_to_heatmap.py", "x"],
            ][1],
            ("x",),
        ),
    ]


def _tiny() -> str:
    from .world import model

    return model()


def _damaged(content: bytes) -> bytes:
    return content[: len(content) // 2] + b"\xff" * 30 + content[len(content) // 2 + 30 :]


def _tar_bomb() -> bytes:
    info = tarfile.TarInfo("ecgen-radiology/1.xml")
    info.size = 1500 << 20
    return (
        gzip.compress(b"")[:10] + deflated(info.tobuf(tarfile.USTAR_FORMAT), 1500 << 20) + bytes(8)
    )


def cases() -> Iterator[Case]:
    yield from (Case(name, "raw data sets", make, words) for name, make, words in _other_cases())
