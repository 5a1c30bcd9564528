"""Exports of trackers' own software, and MATLAB structs: made in the layout that each documents."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from eye_readers import Read, near
from scipy.io import savemat

from openclip_eclip.config import UserError

TOBII = [
    "Recording timestamp [μs]",
    "Participant name",
    "Presented Media name",
    "Eye movement type",
    "Gaze event duration [ms]",
    "Eye movement type index",
    "Fixation point X [DACS px]",
    "Fixation point Y [DACS px]",
    "Fixation point X [MCS norm]",
    "Fixation point Y [MCS norm]",
    "Presented Media position X [DACS px]",
    "Presented Media position Y [DACS px]",
    "Presented Media width [px]",
    "Presented Media height [px]",
]
TOBII_ROWS = [
    "0\tP1\ta.png\tSaccade\t20\t1\t\t\t\t\t460\t40\t1000\t1000",
    "20000\tP1\ta.png\tFixation\t200\t1\t710\t540\t0.25\t0.5\t460\t40\t1000\t1000",
    "30000\tP1\ta.png\tFixation\t200\t1\t710\t540\t0.25\t0.5\t460\t40\t1000\t1000",
    "240000\tP1\ta.png\tFixation\t200\t2\t960\t540\t0.5\t0.5\t460\t40\t1000\t1000",
    "540000\tP2\tb.png\tFixation\t300\t1\t1460\t1040\t1\t1\t460\t40\t1000\t1000",
]


def tobii(folder: Path, keep: str = "", rows: list[str] = TOBII_ROWS, old: bool = False) -> Path:
    kept = [i for i, name in enumerate(TOBII) if not keep or keep not in name]
    header = [TOBII[i] for i in kept]
    if old:  # Tobii Studio
        new = {
            "Recording timestamp [μs]": "RecordingTimestamp",
            "Presented Media name": "MediaName",
            "Eye movement type": "GazeEventType",
            "Gaze event duration [ms]": "GazeEventDuration",
            "Eye movement type index": "FixationIndex",
            "Participant name": "ParticipantName",
            "Fixation point X [DACS px]": "FixationPointX (MCSpx)",
            "Fixation point Y [DACS px]": "FixationPointY (MCSpx)",
        }
        header = [new.get(name, name) for name in header]
    path = folder / "export.tsv"
    lines = ["\t".join(row.split("\t")[i] for i in kept) for row in rows]
    path.write_text("\n".join(["\t".join(header), *lines]) + "\n")
    return path


@pytest.mark.parametrize("keep", ["", "MCS norm"])
def test_tobii(tmp_path: Path, keep: str) -> None:
    got = Read(tobii(tmp_path, keep))
    assert got.format == "tobii"
    assert [(one.image, one.annotator) for one in got.recordings] == [
        ("a.png", "P1"),
        ("b.png", "P2"),
    ]
    placed = got.placed(0, (100, 200))
    near(placed.x, [50, 100])
    near(placed.y, [50, 50])
    near(placed.start, [0.02, 0.24])
    near(placed.duration, [0.2, 0.2])
    assert got.recordings[1].where.endswith("row 5")


def test_tobii_studio(tmp_path: Path) -> None:
    got = Read(tobii(tmp_path, "MCS norm", old=True))
    placed = got.placed(0, (2000, 2000))
    near(placed.x, [710, 960])
    near(placed.start, [20, 240])  # milliseconds


def test_tobii_errors(tmp_path: Path) -> None:
    rows = [*TOBII_ROWS, TOBII_ROWS[-1].replace("\t1\t1\t460", "\t0,5\t1\t460")]
    rows[-1] = rows[-1].replace("\t300\t1\t", "\t300\t2\t")
    with pytest.raises(UserError, match=r"row 6, column 'Fixation point X \[MCS norm\]': '0,5'"):
        Read(tobii(tmp_path, rows=rows))
    rows[-1] = TOBII_ROWS[-1].replace("\t300\t1\t", "\t-3\t2\t")
    with pytest.raises(UserError, match="row 6: a duration of -0.003"):
        Read(tobii(tmp_path, rows=rows))
    with pytest.raises(UserError, match="no column presentedmedianame"):
        Read(tobii(tmp_path, "Presented Media name"))
    with pytest.raises(UserError, match="without their y"):
        Read(tobii(tmp_path, "Fixation point Y"))
    got = Read(tobii(tmp_path, rows=TOBII_ROWS[:1]))
    assert not got.recordings and got.left_out == {"a table without fixations": 1}


GAZEPOINT = "MEDIA_ID,MEDIA_NAME,CNT,TIME(2026/01/01 10:00:00.000),FPOGX,FPOGY,FPOGS,FPOGD,FPOGID,"
GAZEPOINT += "FPOGV,BPOGX,BPOGY,USER"


def test_gazepoint(tmp_path: Path) -> None:
    path = tmp_path / "User 1_all_gaze.csv"
    rows = [
        "0,a.png,1,0.1,0.5,0.5,0.0,0.1,1,1,0.5,0.5,",
        "0,a.png,2,0.2,0.5,0.5,0.0,0.25,1,1,0.5,0.5,",
        "0,a.png,3,0.4,0.25,0.75,0.3,0.2,2,1,0.25,0.75,",
        "0,a.png,4,0.6,0.9,0.9,0.5,0.2,3,0,0.9,0.9,",
    ]
    path.write_text("\n".join([GAZEPOINT, *rows]) + "\n")
    got = Read(path, "--screen 1000x500 --placement fit")
    assert got.format == "gazepoint" and got.recordings[0].image == "a.png"
    placed = got.placed(0, (100, 100))  # lies at 250 to 750
    near(placed.x, [50, 0])
    near(placed.y, [50, 75])
    near(placed.duration, [0.25, 0.2])
    assert got.left_out == {"fixations that Gazepoint calls invalid": 1}
    with pytest.raises(UserError, match="fractions of the screen, and it is unknown|--screen"):
        Read(path)
    path.write_text(GAZEPOINT.replace("FPOGS,", "") + "\n")
    with pytest.raises(UserError, match="no column FPOGS"):
        Read(path)


PUPIL = "world_timestamp,world_index,fixation_id,start_timestamp,duration,dispersion,norm_pos_x,"
PUPIL += "norm_pos_y,x_scaled,y_scaled,on_surf"


def test_pupil(tmp_path: Path) -> None:
    path = tmp_path / "fixations_on_surface_xray_7.csv"
    rows = [
        "10.0,1,5,9.9,200.5,0.5,0.25,0.75,0.25,0.75,True",
        "10.1,2,5,9.9,200.5,0.5,0.25,0.75,0.25,0.75,True",
        "10.2,3,6,10.2,100,0.5,0.5,0.9,0.5,0.9,True",
    ]
    path.write_text("\n".join([PUPIL, *rows]) + "\n")
    camera = tmp_path / "fixations.csv"
    camera.write_text("id,start_timestamp,duration,norm_pos_x,norm_pos_y\n1,2,3,0.5,0.5\n")
    got = Read(tmp_path)
    assert got.format == "pupil" and [one.image for one in got.recordings] == ["xray_7"]
    placed = got.placed(0, (100, 200))
    near(placed.x, [50, 100])
    near(placed.y, [25, 10])  # the origin of the file is at the bottom
    near(placed.duration, [0.2005, 0.1])
    assert got.left_out == {"fixations in the picture of the scene camera": 1}
    with pytest.raises(UserError, match="scene camera; expected fixations_on_surface_NAME"):
        Read(camera)
    path.write_text(PUPIL.replace("fixation_id", "id") + "\n")
    with pytest.raises(UserError, match="no column fixation_id"):
        Read(path)


BEGAZE = "Trial\tStimulus\tParticipant\tCategory\tEye L/R\tEvent Start Trial Time [ms]\t"
BEGAZE += "Event Duration [ms]\tFixation Position X [px]\tFixation Position Y [px]"


def test_begaze(tmp_path: Path) -> None:
    path = tmp_path / "events.txt"
    rows = [
        "1\ta.png\tP1\tFixation\tRight\t0\t200\t10\t20",
        "1\ta.png\tP1\tFixation\tLeft\t0\t200\t11\t21",
        "1\ta.png\tP1\tSaccade\tRight\t200\t30\t-\t-",
        "1\ta.png\tP1\tVisual Intake\tRight\t230\t300\t30\t40",
    ]
    path.write_text("\n".join([BEGAZE, *rows]) + "\n")
    got = Read(path)
    assert got.format == "begaze"
    near(got.placed(0, (99, 99)).x, [10, 30])
    near(got.placed(0, (99, 99)).start, [0, 0.23])
    near(Read(path, "--eye left").recordings[0].fixations.x, [11])
    path.write_text("\n".join([BEGAZE, *rows, rows[0].replace("200\t10", "200\tten")]) + "\n")
    with pytest.raises(UserError, match="row 5, column 'Fixation Position X .*'ten'"):
        Read(path)


def bids(folder: Path, columns: object = None, rate: object = 100, events: bool = True) -> Path:
    """1 s of samples from 100.0 s on; image a 0 to 0.5 s, image b 0.5 to 1 s."""
    stem = folder / "sub-07_task-view_recording-eye1"
    columns = columns or ["timestamp", "x_coordinate", "y_coordinate", "pupil_size"]
    facts = {"Columns": columns, "SamplingFrequency": rate, "StartTime": -0.2}
    facts |= {"ScreenResolution": [1000, 500]}
    Path(f"{stem}_physio.json").write_text(json.dumps(facts))
    lines = []
    for i in range(100):
        x, y = ("250", "100") if i < 70 else ("500", "250")
        lines.append(f"{100000 + 10 * i}\t{x if i != 3 else 'n/a'}\t{y}\t900")
    Path(f"{stem}_physio.tsv.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    if events:
        facts = {"Columns": ["onset", "duration", "trial_type"]}
        Path(f"{stem}_physioevents.json").write_text(json.dumps(facts))
        rows = ["100000\t400\tfixation", "100400\t50\tsaccade", "100750\t200\tfixation"]
        Path(f"{stem}_physioevents.tsv.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    (folder / "sub-07_task-view_events.tsv").write_text(
        "onset\tduration\tstim_file\n-0.2\t0.5\ta.png\n0.3\t0.5\tb.png\n0.9\t1\tn/a\n"
    )
    return Path(f"{stem}_physio.tsv.gz")


def test_bids_fixations(tmp_path: Path) -> None:
    path = bids(tmp_path)
    got = Read(path, "--placement stretch")
    assert got.format == "bids-eye"
    assert [(one.image, one.annotator) for one in got.recordings] == [
        ("a.png", "07"),
        ("b.png", "07"),
    ]
    placed = got.placed(1, (100, 200))
    near(placed.x, [100])
    near(placed.y, [50])
    near(placed.start, [0.25])
    near(placed.duration, [0.2])
    assert dict(got.recordings[0].quality)["data loss"] == pytest.approx(1 / 50)


def test_bids_durations_in_another_unit_than_onsets(tmp_path: Path) -> None:
    path = bids(tmp_path)
    events = path.with_name(path.name.replace("_physio", "_physioevents"))
    rows = ["100000\t0.4\tfixation", "100400\t0.05\tsaccade", "100750\t0.2\tfixation"]
    events.write_bytes(gzip.compress("\n".join(rows).encode()))
    got = Read(path, "--placement stretch")
    near(got.placed(1, (100, 200)).start, [0.25])
    near(got.placed(1, (100, 200)).duration, [0.2])


def test_bids_samples(tmp_path: Path) -> None:
    pytest.importorskip("pymovements")
    path = bids(tmp_path, events=False)
    flags = "--placement stretch --detector ivt --screen-cm 50x25 --distance-cm 60"
    got = Read(path, flags)
    near(got.recordings[0].fixations.x, [250])
    near(got.recordings[1].fixations.x, [250, 500], 20)
    assert dict(got.recordings[0].quality)["data loss"] == pytest.approx(1 / 50)


def test_bids_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 fields; expected 3, as Columns"):
        Read(bids(tmp_path, ["timestamp", "x_coordinate", "y_coordinate"]))
    with pytest.raises(UserError, match="Columns is 'x'"):
        Read(bids(tmp_path, "x"))
    with pytest.raises(UserError, match="expected one of x_coordinate"):
        Read(bids(tmp_path, ["timestamp", "a", "b", "c"]))
    with pytest.raises(UserError, match="SamplingFrequency is -1"):
        Read(bids(tmp_path, ["a", "x_coordinate", "y_coordinate", "c"], rate=-1))
    path = bids(tmp_path)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(UserError, match="not a readable table"):
        Read(path, "--placement stretch")
    path = bids(tmp_path)
    (tmp_path / "sub-07_task-view_events.tsv").unlink()
    with pytest.raises(UserError, match="no sub-07_task-view_events.tsv beside it"):
        Read(path, "--placement stretch")


def osie(folder: Path, **changes: object) -> Path:
    """The layout of OSIE: a cell of images, each with a cell of subjects."""
    fixations = np.empty(2, dtype=object)
    for i in range(2):
        subjects = np.empty(2, dtype=object)
        for j in range(2):
            one: dict[str, object] = {
                "fix_x": np.array([10.0 * (i + 1), 100.5]),
                "fix_y": np.array([20.0 * (j + 1), 200.5]),
                "fix_duration": np.array([200.0, 300.0]),
            }
            subjects[j] = one | (changes if i == j == 1 else {})
        fixations[i] = {"img": f"{1001 + i}.jpg", "subjects": subjects}
    path = folder / "fixations.mat"
    savemat(path, {"fixations": fixations, "note": "x"}, do_compression=True)
    return path


def test_starts_in_another_unit_than_durations(tmp_path: Path) -> None:
    """A struct with starts in seconds beside durations in milliseconds."""
    start, duration = [0.0, 0.25, 0.6, 0.8, 1.3], [200.0, 300, 150, 400, 200]
    one = {"img": "a.jpg", "x": [10.5] * 5, "y": [20.5] * 5, "start": start, "duration": duration}
    savemat(tmp_path / "m.mat", {"data": one})
    (got,) = Read(tmp_path / "m.mat").recordings
    near(got.fixations.start, start)
    near(got.fixations.duration, [0.2, 0.3, 0.15, 0.4, 0.2])


def test_osie(tmp_path: Path) -> None:
    got = Read(osie(tmp_path))
    assert got.format == "gaze-matlab"
    assert [(one.image, one.annotator) for one in got.recordings] == [
        ("1001.jpg", "1"),
        ("1001.jpg", "2"),
        ("1002.jpg", "1"),
        ("1002.jpg", "2"),
    ]
    placed = got.placed(3, (600, 800))
    near(placed.x, [20, 100.5])
    near(placed.y, [40, 200.5])
    near(placed.duration, [0.2, 0.3])
    assert "fixations{2}.subjects{2}" in got.recordings[3].where


def test_matlab_fields_by_flags_and_variables(tmp_path: Path) -> None:
    path = tmp_path / "gaze.mat"
    data = {"col": [1.0, 2], "row": [3.0, 4], "dwell": [0.2, 0.3], "photo": "p.png"}
    savemat(path, {"data": data, "other": {**data, "photo": "q.png"}})
    flags = "--gaze-columns x=col,y=row,duration=dwell,image=photo"
    assert [one.image for one in Read(path, flags).recordings] == ["p.png", "q.png"]
    (one,) = Read(path, flags + " --gaze-variable other").recordings
    assert one.image == "q.png"
    near(one.fixations.y, [3, 4])
    with pytest.raises(UserError, match="no struct with positions"):
        Read(path)
    with pytest.raises(UserError, match="no variable 'none'; found data, other"):
        Read(path, "--gaze-variable none")


def test_matlab_errors(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="as many in all fields"):
        Read(osie(tmp_path, fix_x=np.ones(3)))
    with pytest.raises(UserError, match="not numbers"):
        Read(osie(tmp_path, fix_x="left"))
    with pytest.raises(UserError, match="duration of -1"):
        Read(osie(tmp_path, fix_duration=np.array([-1.0, 1])))
    got = Read(osie(tmp_path, fix_x=[], fix_y=[], fix_duration=[]))
    assert len(got.recordings) == 3 and got.left_out == {"gaze without a position": 1}
    path = osie(tmp_path)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not a readable MATLAB file"):
        Read(path)
    path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    with pytest.raises(UserError, match="Save it with save"):
        Read(path)


def test_matlab_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.mat"
    savemat(path, {"x": np.zeros(3_000_000)}, do_compression=True)
    monkeypatch.setattr("openclip_eclip.annotations.eye.matlab.LARGEST", 1 << 22)
    with pytest.raises(UserError, match="unpacks to more than 4 MiB"):
        Read(path)
