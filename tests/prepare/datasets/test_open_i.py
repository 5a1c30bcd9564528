"""Open-I: the real archive of the installed torchxrayvision, and two small copies of both layouts.

The reports of the small copies are invented.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from openclip_eclip.prepare.__main__ import main
from openclip_eclip.prepare.datasets.open_i import groups, image_key, split_reports
from openclip_eclip.prepare.datasets.open_i_reports import Report

# number: (major MeSH terms, findings, impression, images); 4 has no image, 5 no findings, 6 neither
REPORTS = {
    1: (
        ["normal"],
        "The lungs are clear.",
        "Normal.",
        ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"],
    ),
    2: (
        ["Cardiomegaly/borderline", "Lung/hypoinflation", "Lung/opacity"],
        "Heart is large.",
        "",
        ["CXR2_IM-0652-1001"],
    ),
    3: (
        ["Pulmonary Atelectasis/base", "Pulmonary Edema "],
        "THE LUNGS are clear. ",
        "Edema.",
        ["CXR3_IM-1384-0001-0002", "CXR3_IM-1384-84646002"],
    ),
    4: (["normal"], "No films here.", "Normal.", []),
    5: (["Catheters, Indwelling/right"], "", "A line.", ["CXR5_IM-0003-1001"]),
    6: (["No Indexing"], "", "", ["CXR6_IM-0004-1001"]),
}
LATERAL = {"1_IM-0001-4001", "3_IM-1384-84646002"}


def key(image: str) -> str:
    return image_key(image, "test")[0]


def xml(number: int, extra: str = "") -> str:
    terms, findings, impression, images = REPORTS[number]
    sections = {"COMPARISON": "", "INDICATION": "", "FINDINGS": findings, "IMPRESSION": impression}
    return (
        '<?xml version="1.0" encoding="utf-8"?>'
        + extra
        + f'<eCitation><uId id="CXR{number}"/><MedlineCitation><Article><Abstract>'
        + "".join(
            (
                f'<AbstractText Label="{name}">{text}</AbstractText>'
                if text
                else f'<AbstractText Label="{name}"/>'
            )
            for name, text in sections.items()
        )
        + "</Abstract></Article></MedlineCitation><MeSH>"
        + "".join(f"<major>{term}</major>" for term in terms)
        + "<automatic>lung opacity consolidation</automatic></MeSH>"
        + "".join(f'<parentImage id="{image}"><caption/></parentImage>' for image in images)
        + "</eCitation>"
    )


def write_archive(root: Path, contents: dict[str, bytes] | None = None) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    if contents is None:
        contents = {f"ecgen-radiology/{number}.xml": xml(number).encode() for number in REPORTS}
    with tarfile.open(root / "NLMCXR_reports.tgz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return root


def write_views(root: Path) -> None:
    images = [key(image) for *_, images in REPORTS.values() for image in images]
    pd.DataFrame(
        [
            [
                image.partition("_")[0],
                f"{image}.dcm.png",
                "Lateral" if image in LATERAL else "Frontal",
            ]
            for image in images
        ],
        columns=["uid", "filename", "projection"],
    ).to_csv(root / "indiana_projections.csv", index=False)


def write_images(folder: Path, kaggle: bool) -> None:
    folder.mkdir(parents=True)
    for *_, images in REPORTS.values():
        for image in images:
            Image.new("L", (60, 50), 100).save(
                folder / (f"{key(image)}.dcm.png" if kaggle else f"{image}.png")
            )


def write_kaggle(root: Path) -> Path:
    """Writes the reports with an image as Kaggle's table, with quoted commas and line breaks.

    Comparison and indication are blank.
    """
    root.mkdir(parents=True)
    pd.DataFrame(
        [
            [
                n,
                ";".join(terms),
                ";".join(t.partition("/")[0].strip() for t in terms),
                "Chest, 2\nviews",
                "",
                "",
                findings,
                impression,
            ]
            for n, (terms, findings, impression, images) in REPORTS.items()
            if images
        ],
        columns="uid,MeSH,Problems,image,indication,comparison,findings,impression".split(","),
    ).to_csv(root / "indiana_reports.csv", index=False)
    write_views(root)
    write_images(root / "images" / "images_normalized", kaggle=True)
    return root


def prepare(root: Path, out: Path, *flags: str) -> int:
    return main(
        ["open-i", str(root), str(out), "--size", "32", "--workers", "1", "--format", "csv", *flags]
    )


def tables(out: Path) -> dict[str, list[list[str]]]:
    return {
        path.stem: (
            pd.read_csv(path, dtype=str, keep_default_na=False)[
                ["filepath", "title"]
            ].values.tolist()
        )
        for path in out.glob("*.csv")
    }


def test_both_forms_give_the_same_sets(tmp_path: Path) -> None:
    raw = write_archive(tmp_path / "raw")
    write_views(raw)
    write_images(raw / "NLMCXR_png", kaggle=False)
    folder = tmp_path / "folder" / "ecgen-radiology"
    folder.mkdir(parents=True)
    for number in REPORTS:
        (folder / f"{number}.xml").write_text(xml(number))
    assert (
        prepare(raw, tmp_path / "a")
        == prepare(write_kaggle(tmp_path / "kaggle"), tmp_path / "b")
        == 0
    )
    assert (
        prepare(
            folder.parent,
            tmp_path / "c",
            *("--views", str(raw / "indiana_projections.csv")),
            *("--images", str(raw / "NLMCXR_png")),
        )
        == 0
    )
    assert tables(tmp_path / "a") == tables(tmp_path / "b") == tables(tmp_path / "c")
    assert (tmp_path / "a" / "openi-5.csv").read_bytes() == (
        tmp_path / "b" / "openi-5.csv"
    ).read_bytes()
    left_out = json.loads((tmp_path / "a" / "manifest.json").read_text())["left_out"]
    assert left_out["report without a film"] == 1 and left_out["lateral film"] == 2
    assert left_out["report without findings, not in retrieval, report generation or training"] == 2


def test_full_evaluation_sets(tmp_path: Path) -> None:
    assert prepare(write_kaggle(tmp_path / "raw"), tmp_path / "out") == 0
    retrieval = pd.read_csv(
        tmp_path / "out" / "openi-retrieval.csv", dtype=str, keep_default_na=False
    )
    assert retrieval["filepath"].tolist() == [
        f"images/{name}.jpg" for name in ("1_IM-0001-3001", "2_IM-0652-1001", "3_IM-1384-0001-0002")
    ]
    assert retrieval["title"].tolist() == [
        "The lungs are clear.",
        "Heart is large.",
        "THE LUNGS are clear.",
    ]
    assert retrieval["text_id"].tolist() == ["0", "1", "0"]  # equal in lower case
    probe = pd.read_csv(tmp_path / "out" / "openi-5.csv")
    assert len(probe) == 5 and probe["title"].str.len().min() > 0
    assert {
        name: probe.loc[probe[name] == 1, "patient"].tolist()
        for name in ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema")
    } == {"Atelectasis": [3], "Cardiomegaly": [2], "Consolidation": [], "Edema": [3]}
    assert probe["problems"].tolist()[1] == "Cardiomegaly;Lung;Lung"
    assert probe["groups"].tolist()[1] == "cardiomegaly|lung"


def test_split_by_report_never_overlaps_and_keeps_each_group() -> None:
    """The test split has 15 % of each combination of groups, and no report is in both splits.

    Reports without a group are kept.
    """
    problems = ["normal", "Cardiomegaly;Lung", "Lung", "Opacity;Lung", "Calcinosis"]
    reports = [Report(str(i), problems[i % 5], "text", "", ("f",)) for i in range(500)]
    test = split_reports(reports, seed=123)
    assert len(test) == 75 == len(set(test))
    assert test == split_reports(reports[::-1], seed=123) != split_reports(reports, seed=1)
    for problem in problems:
        assert sum(report.uid in test for report in reports if report.problems == problem) == 15
    assert groups(reports[3]) == ["opacity", "lung"]
    assert groups(Report("1", "normal;Lung", "", "", None)) == ["lung"]


def test_training_takes_its_evaluation_from_test_reports(tmp_path: Path) -> None:
    raw = write_archive(
        tmp_path / "raw",
        {f"{i}.xml": xml(2).replace("CXR2", f"CXR{i}").encode() for i in range(1, 21)},
    )
    assert (
        prepare(raw, tmp_path / "out", "--views", "all", "--purpose", "training", "--dry-run") == 0
    )
    for i in range(1, 21):
        Image.new("L", (60, 50)).save(raw / f"CXR{i}_IM-0652-1001.png")
    assert prepare(raw, tmp_path / "out", "--views", "all", "--purpose", "training") == 0
    uids = {
        name: {row[0].partition("/")[2].partition("_")[0] for row in rows}
        for name, rows in tables(tmp_path / "out").items()
    }
    assert len(uids["train"]) == 17 and len(uids["test"]) == 3
    assert not uids["train"] & uids["test"]
    assert uids["openi-5-all-views"] == uids["openi-retrieval-all-views"] == uids["test"]


def test_views_come_only_from_a_table(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    raw = write_kaggle(tmp_path / "raw")
    views = pd.read_csv(raw / "indiana_projections.csv", dtype=str)
    (raw / "indiana_projections.csv").unlink()
    assert prepare(raw, tmp_path / "a") == 2
    assert "or use all images with --views all" in capsys.readouterr().err
    mine = tmp_path / "views.csv"
    odd = pd.DataFrame([["9", "9_IM-0001-1001.dcm.png", "Frontal"]], columns=views.columns)
    # report 2 has no projection, image 9 no report
    pd.concat([views[views.uid != "2"], odd]).to_csv(mine, index=False)
    assert prepare(raw, tmp_path / "b", "--views", str(mine)) == 0
    left_out = json.loads((tmp_path / "b" / "manifest.json").read_text())["left_out"]
    assert left_out["report without a film"] == 1
    assert left_out["view of a film without a report"] == 1
    write_archive(tmp_path / "xml")
    assert prepare(tmp_path / "xml", tmp_path / "c", "--views", str(mine), "--dry-run") == 0
    assert "film without a view: 1 (such as 2_IM-0652-1001)" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change,message",
    [
        (
            lambda t: t.assign(projection="AP"),
            "row 1, column 'projection': 'AP'; expected Frontal or Lateral",
        ),
        (lambda t: t.assign(filename="x.png"), "row 1, column 'filename': 'x.png'"),
        (lambda t: pd.concat([t, t.head(1)]), "row 8, column 'filename': .* occurs twice"),
        (lambda t: t.drop(columns="projection"), "no column 'projection'"),
    ],
)
def test_bad_views_are_errors(
    tmp_path: Path, change, message: str, capsys: pytest.CaptureFixture
) -> None:
    raw = write_kaggle(tmp_path / "raw")
    change(pd.read_csv(raw / "indiana_projections.csv", dtype=str)).to_csv(
        raw / "indiana_projections.csv", index=False
    )
    assert prepare(raw, tmp_path / "out") == 2 and re.search(message, capsys.readouterr().err)


BOMB = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    "contents,message",
    [
        ({"1.xml": xml(1, BOMB).encode()}, "1.xml: a document type or entity"),
        (
            {"1.xml": xml(1, '<!DOCTYPE x SYSTEM "file:///etc/passwd">').encode()},
            "1.xml: a document type or entity",
        ),
        ({"1.xml": xml(1, BOMB).replace("utf-8", "utf-16").encode("utf-16")}, "1.xml: not UTF-8"),
        ({"1.xml": xml(1).encode()[:-20]}, "1.xml: broken XML"),
        ({"1.xml": b"<eCitation/>"}, "1.xml: no uId"),
        ({"1.xml": b" " * (2 << 20)}, "1.xml: 2097152 bytes"),
        ({"1.xml": xml(1).encode(), "2.xml": xml(1).encode()}, "report 1 occurs twice"),
        (
            {"1.xml": xml(1).replace("CXR1_1_", "CXR1_2_").encode()},
            "'CXR1_2_IM-0001-3001'; expected an image",
        ),
        ({"readme.txt": b""}, "no reports in the archive, folder or table"),
    ],
)
def test_archives_are_read_safely(
    tmp_path: Path, contents: dict, message: str, capsys: pytest.CaptureFixture
) -> None:
    assert (
        prepare(
            write_archive(tmp_path / "raw", contents),
            tmp_path / "out",
            "--views",
            "all",
            "--dry-run",
        )
        == 2
    )
    assert message in capsys.readouterr().err


def test_member_names_never_reach_files_outside(tmp_path: Path) -> None:
    raw = write_archive(
        tmp_path / "raw" / "deep",
        {"../../1.xml": xml(1).encode(), "/tmp/openi_absolute.xml": xml(2).encode()},
    )
    assert prepare(raw, tmp_path / "out", "--views", "all", "--dry-run") == 0
    assert [path.name for path in tmp_path.rglob("*.xml")] == []
    assert not Path("/tmp/openi_absolute.xml").exists()
    (raw / "NLMCXR_reports.tgz").write_bytes((raw / "NLMCXR_reports.tgz").read_bytes()[:100])
    assert prepare(raw, tmp_path / "out", "--views", "all", "--dry-run") == 2


@pytest.mark.parametrize(
    "name,expected",
    [
        ("CXR1_1_IM-0001-3001.png", "1_IM-0001-3001"),
        ("1_IM-0001-3001.dcm.png", "1_IM-0001-3001"),
        ("CXR2_IM-0652-1001", "2_IM-0652-1001"),
        ("CXR3_IM-1384-0001-0002.dcm", "3_IM-1384-0001-0002"),
        ("CXR961_IM-2452-84646002", "961_IM-2452-84646002"),
    ],
)
def test_image_keys(name: str, expected: str) -> None:
    assert image_key(name, "test") == (expected, expected.partition("_")[0])


@pytest.mark.slow
def test_real_archive_end_to_end(tmp_path: Path) -> None:
    """The counts of the 3 955 real reports; the images are blank, because no package has them."""
    spec = importlib.util.find_spec("torchxrayvision")
    archive = (
        Path(next(iter(spec.submodule_search_locations))) / "data" / "NLMCXR_reports.tgz"
        if spec
        else Path("absent")
    )
    if not archive.is_file():
        pytest.skip("torchxrayvision, whose wheel holds the Open-I reports, is not installed")
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "NLMCXR_reports.tgz").symlink_to(archive)
    stand_in = tmp_path / "stand-in.png"
    Image.fromarray(np.zeros((32, 32), dtype=np.uint8)).save(stand_in)
    with tarfile.open(archive) as tar:
        content = b"".join(
            tar.extractfile(member).read() for member in tar if member.name.endswith(".xml")
        )
    for image in re.findall(rb'parentImage id="([^"]+)"', content):
        (tmp_path / "raw" / f"{image.decode()}.png").symlink_to(stand_in)
    assert prepare(tmp_path / "raw", tmp_path / "out", "--views", "all", "--workers", "2") == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    facts = manifest["facts"]
    assert (facts["reports"], facts["reports with a film"], facts["films"]) == (3955, 3851, 7470)
    assert (
        facts["reports with findings"],
        facts["reports with impression"],
        facts["reports with neither"],
    ) == (3425, 3921, 28)
    assert facts["reports with a film and findings"] == 3337
    assert facts["distinct findings of those"] == 2552
    assert facts["openi-5 (reports with a film)"] == {
        "Atelectasis": 315,
        "Cardiomegaly": 345,
        "Consolidation": 30,
        "Edema": 42,
        "Pleural Effusion": 149,
    }
    assert facts["groups (with findings)"] == {
        "normal": 1197,
        "cardiomegaly": 286,
        "opacity": 383,
        "atelectasis": 268,
        "lung": 493,
    }
    assert (facts["in several groups"], facts["in none"]) == (319, 1124)
    assert manifest["skipped"] == {}
    retrieval = pd.read_csv(
        tmp_path / "out" / "openi-retrieval-all-views.csv", keep_default_na=False
    )
    assert retrieval["patient"].nunique() == 3337
    assert retrieval["text_id"].nunique() == 2552 == retrieval["title"].str.lower().nunique()
    train, test = (
        set(pd.read_csv(tmp_path / "out" / f"report-{name}.csv")["patient"])
        for name in ("train", "test")
    )
    assert not train & test
    assert len(train | test) == 3337
    assert len(test) / 3337 == pytest.approx(0.15, abs=0.002)
