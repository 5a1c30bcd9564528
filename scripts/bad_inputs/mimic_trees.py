"""Small copies of MIMIC-CXR, EGD-CXR and REFLACX, with invented ids and values.

Their files have exactly the form of the releases. Each known trap of the data occurs once.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from openclip_eclip.prepare.datasets.mimic_files import image_path, report_path

# alphabetical
LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
HEIGHT, WIDTH = 91, 61  # odd: EGD-CXR's tables round up to even
REPORT = """\
                                 FINAL REPORT
 EXAMINATION:  CHEST (PA AND LAT)

 FINDINGS:

 The lungs are clear{}.  There is no pneumothorax.

 IMPRESSION: No acute process.
"""
IMAGES = [  # subject, study, view, code, split; trap
    ("19000000", "59000000", "PA", "", "train"),  # 0
    ("19000000", "59000000", "AP", "", "train"),  # 1: second frontal image of the study
    ("19000000", "59000000", "LATERAL", "", "train"),  # 2
    ("19000001", "59000001", "", "postero-anterior", "validate"),  # 3: view blank, code says PA
    ("19000002", "59000002", "PA", "", "test"),  # 4: report without headers
    ("19000003", "59000003", "PA", "", "train"),  # 5: no report
    ("19000004", "59000004", "AP", "", "train"),  # 6: empty report
    ("18000005", "59000005", "AP", "", "train"),  # 7: no label row; a byte that is no UTF-8
    ("19000006", "59000006", "PA", "", "train"),  # 8: image missing
    ("19000007", "59000007", "AP AXIAL", "", "train"),  # 9: neither frontal nor lateral
    ("19000008", "59000008", "PA", "", "train"),  # 10: neither section
]


def dicom(i: int) -> str:
    return f"{i:08x}-bbbbbbbb-cccccccc-dddddddd-eeeeeeee"


def image_file(root: Path, i: int) -> Path:
    subject, study, *_ = IMAGES[i]
    return image_path(root, subject, study, dicom(i))


def write_mimic(root: Path) -> Path:
    """The JPG tree and the reports' tree under one root, as the default of --reports wants it."""
    rng, metadata = np.random.default_rng(0), []
    for i, (subject, study, view, code, split) in enumerate(IMAGES):
        path = image_file(root, i)
        path.parent.mkdir(parents=True, exist_ok=True)
        if i != 8:
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)).save(path)
        report_path(root, subject, study).write_text(
            REPORT.format(f" in patient {i}"), encoding="utf-8"
        )
        metadata.append(
            {
                "dicom_id": dicom(i),
                "subject_id": subject,
                "study_id": study,
                "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
                "ViewPosition": view,
                "Rows": HEIGHT,
                "Columns": WIDTH,
                "StudyDate": 21000101,
                "StudyTime": "70503.25",
                "ProcedureCodeSequence_CodeMeaning": "CHEST, PA AND LAT",
                "ViewCodeSequence_CodeMeaning": code,
                "PatientOrientationCodeSequence_CodeMeaning": "Erect",
                "split": split,
            }
        )
    report_path(root, *IMAGES[4][:2]).write_text(
        " FINAL REPORT\n Compared with before.\n \n Nothing has ___ changed.\n \n Still clear.\n"
    )
    report_path(root, *IMAGES[5][:2]).unlink()
    report_path(root, *IMAGES[6][:2]).write_text("")
    report_path(root, *IMAGES[7][:2]).write_bytes(b" FINAL REPORT\n IMPRESSION: Caf\xe9 au lait.\n")
    report_path(root, *IMAGES[10][:2]).write_text(" FINAL REPORT\n TECHNIQUE: Two pictures.\n")
    table = pd.DataFrame(metadata)
    table.drop(columns="split").to_csv(root / "mimic-cxr-2.0.0-metadata.csv.gz", index=False)
    table[["dicom_id", "study_id", "subject_id", "split"]].to_csv(
        root / "mimic-cxr-2.0.0-split.csv.gz", index=False
    )
    studies = list(
        dict.fromkeys((subject, study) for subject, study, *_ in IMAGES if subject != "18000005")
    )
    labels = pd.DataFrame(
        [{"subject_id": s, "study_id": t} | dict.fromkeys(LABELS, "") for s, t in studies]
    )
    labels.loc[0, ["Edema", "Fracture", "No Finding"]] = ["1.0", "0.0", ""]
    labels.loc[1, ["Edema", "Fracture"]] = ["1.0", "-1.0"]
    labels.to_csv(root / "mimic-cxr-2.0.0-chexpert.csv.gz", index=False)
    return root


SHEET = (
    ["dicom_id", "path", "study_id", "patient_id", "stay_id", "gender", "anchor_age"]
    + [f"image_{side}_pad" for side in ("top", "bottom", "left", "right")]
    + [f"dx{i}{part}" for i in range(1, 10) for part in ("", "_icd")]
    + [
        "normal_reports",
        "Normal",
        "CHF",
        "pneumonia",
        "consolidation",
        "enlarged_cardiac_silhouette",
        "linear__patchy_atelectasis",
        "lobar__segmental_collapse",
        "not_otherwise_specified_opacity___pleural__parenchymal_opacity__",
        "pleural_effusion_or_thickening",
        "pulmonary_edema__hazy_opacity",
        "normal_anatomically",
        "elevated_hemidiaphragm",
        "hyperaeration",
        "vascular_redistribution",
    ]
    + [f"{name.lower().replace(' ', '_')}__chx" for name in LABELS]
    + ["cxr_exam_indication"]
)
GAZE = [
    "SESSION_ID",
    "MEDIA_ID",
    "DICOM_ID",
    "CNT",
    "Time (in secs)",
    "TIMETICK(f=10000000)",
    "FPOGX",
    "FPOGY",
    "FPOGS",
    "FPOGD",
    "FPOGID",
    "FPOGV",
    "BPOGX",
    "BPOGY",
    "BPOGV",
    "LPCX",
    "LPCY",
    "LPD",
    "LPS",
    "LPV",
    "RPCX",
    "RPCY",
    "RPD",
    "RPS",
    "RPV",
    "BKID",
    "BKDUR",
    "BKPMIN",
    "LPMM",
    "LPMMV",
    "RPMM",
    "RPMMV",
    "SACCADE_MAG",
    "SACCADE_DIR",
    "VID_FRAME",
    "X_ORIGINAL",
    "Y_ORIGINAL",
]
# 686 of 1920 pixels remain
PADS = {
    "image_top_pad": 0,
    "image_bottom_pad": 0,
    "image_left_pad": 617,
    "image_right_pad": 617,
}
EGD_IMAGES = (0, 1, 3, 7)  # 0 and 1 are read; 3 only outside the image; 7 without rows


def fixation(
    i: int, x: object, y: object, start: float = 0.3, duration: object = 0.4, **cells: object
) -> dict:
    """One row of fixations.csv for image `i`, at pixel x, y."""
    return (
        {name: 0 for name in GAZE}
        | {
            "DICOM_ID": dicom(i),
            "FPOGS": start,
            "FPOGD": duration,
            "FPOGV": 1,
            "X_ORIGINAL": x,
            "Y_ORIGINAL": y,
            "FPOGX": 0.5,
            "FPOGY": 0.5,
        }
        | cells
    )


def egd_rows() -> list[dict]:
    return [
        fixation(0, 50, 20),
        fixation(0, 10, 70, start=5.0, duration=0.2),
        # one pixel too far, because sides were rounded up to even: clipped
        fixation(0, WIDTH, 40, start=9.0, duration=0.1),
        fixation(0, -2, 30),
        fixation(0, 30, -1),  # outside the image: -1 before scaling
        fixation(0, WIDTH + 1, 30),
        fixation(0, 30, 30, FPOGV=0),
        fixation(0, 30, 30, duration=0),
        fixation(0, 30, 30, duration=""),
        fixation(0, "", 30),
        fixation(0, 30, 30, DICOM_ID=dicom(0)[:-5]),  # calibration dot
        fixation(0, 30, 30, DICOM_ID="ffffffff" + dicom(0)[8:]),  # not in the master sheet
        fixation(1, 5, 5),
        fixation(3, -2, -2),
    ]


def write_egd(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    with open(root / "master_sheet.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, SHEET, restval="", lineterminator="\n")
        table.writeheader()
        for i in EGD_IMAGES:
            subject, study, *_ = IMAGES[i]
            table.writerow(
                {
                    "dicom_id": dicom(i),
                    "path": f"files/p{subject[:2]}/p{subject}/s{study}/{dicom(i)}.dcm",
                    "study_id": study,
                    "patient_id": subject,
                    "anchor_age": "20 - 30",
                    "dx1": "Heart failure, unspecified",
                    "Normal": 0,
                    "CHF": int(i < 3),
                    "pneumonia": 0,
                    "cxr_exam_indication": f"Cough, fever.\n___ year old, row {i}",
                    **PADS,
                }
            )
    pd.DataFrame(egd_rows(), columns=GAZE).to_csv(root / "fixations.csv", index=False)
    words = [
        ("The lungs", 0.5, 0.9),
        ("are 1.5", 1.0, 1.1),
        ("clear.", 1.2, 1.5),
        ("No", 5.0, 5.2),
        ("effusion", 5.2, 5.9),
    ]
    write_transcript(root, 0, words)
    write_transcript(root, 1, [])
    return root


def write_transcript(root: Path, i: int, words: list[tuple[str, float, float]]) -> Path:
    path = root / "audio_segmentation_transcripts" / dicom(i) / "transcript.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    phrases = [{"phrase": text, "begin_time": start, "end_time": end} for text, start, end in words]
    path.write_text(
        json.dumps(
            {"full_text": " ".join(text for text, *_ in words), "time_stamped_text": phrases}
        )
    )
    return path


PHASE_LABELS = {
    1: [
        "Airway wall thickening",
        "Atelectasis",
        "Consolidation",
        "Emphysema",
        "Enlarged cardiac silhouette",
        "Fibrosis",
        "Fracture",
        "Groundglass opacity",
        "Mass",
        "Nodule",
        "Other",
        "Pleural effusion",
        "Pleural thickening",
        "Pneumothorax",
        "Pulmonary edema",
        "Quality issue",
        "Support devices",
        "Wide mediastinum",
    ],
    2: [
        "Abnormal mediastinal contour",
        "Acute fracture",
        "Atelectasis",
        "Consolidation",
        "Enlarged cardiac silhouette",
        "Enlarged hilum",
        "Groundglass opacity",
        "Hiatal hernia",
        "High lung volume / emphysema",
        "Interstitial lung disease",
        "Lung nodule or mass",
        "Other",
        "Pleural abnormality",
        "Pneumothorax",
        "Pulmonary edema",
        "Support devices",
    ],
}
PHASE_LABELS[3] = PHASE_LABELS[2]
# the fifth is of a MIMIC test image; the sixth is only outside the image
READINGS = [
    ("P101R000001", 0, False),
    ("P101R000002", 0, False),
    ("P102R000003", 0, True),  # three readers, one discarded
    ("P201R000004", 1, True),  # discarded: only ellipses and box
    ("P300R000005", 4, False),
    ("P300R000006", 7, False),
]
FIXATION = [
    "timestamp_start_fixation",
    "timestamp_end_fixation",
    "x_position",
    "y_position",
    "pupil_area_normalized",
    "angular_resolution_x_pixels_per_degree",
    "angular_resolution_y_pixels_per_degree",
    "window_width",
    "window_level",
    *(
        f"{name}_{frame}"
        for frame in ("shown_from_image", "in_screen_coordinates")
        for name in ("xmin", "ymin", "xmax", "ymax")
    ),
]


def reflacx_fixation(
    start: float,
    end: object,
    x: int,
    y: int,
    degrees: object = 4,
    shown: tuple[int, ...] = (0, 0, WIDTH, HEIGHT),
) -> list:
    return [start, end, x, y, 1.05, degrees, degrees, 0.99, 0.5, *shown, 660, 0, 3180, 2160]


REFLACX_FIXATIONS = {
    "P101R000001": [
        reflacx_fixation(-0.4, 0.1, 10, 10),
        reflacx_fixation(2.0, 2.5, 50, 80),
        reflacx_fixation(3, 3, 30, 30),
        reflacx_fixation(3, "", 30, 30),
        reflacx_fixation(3, 4, 30, 30, degrees=0),
        reflacx_fixation(3, 4, 30, 30, degrees=""),
        reflacx_fixation(3, 4, 30, 30, shown=(20, 0, 20, HEIGHT)),
        reflacx_fixation(3, 4, -5, 30),
        reflacx_fixation(3, 4, 30, HEIGHT + 7),
    ],
    "P101R000002": [reflacx_fixation(0.5, 1.0, 50, 10), reflacx_fixation(0.1, 0.35, 10, 10)],
    "P300R000005": [reflacx_fixation(0.0, 1.0, 30, 45)],
    "P300R000006": [reflacx_fixation(0.0, 1.0, -30, 45)],
}


def write_reflacx(root: Path) -> Path:
    for phase in (1, 2, 3):
        rows = []
        for name, i, discarded in READINGS:
            if name[1] == str(phase):
                subject, study, _, _, split = IMAGES[i]
                patient = f"physionet.org/files/mimic-cxr/2.0.0/files/p{subject[:2]}/p{subject}"
                path = f"{patient}/s{study}/{dicom(i)}.dcm"
                labels = {label: 0 for label in PHASE_LABELS[phase]} | {
                    "Consolidation": 4,
                    "Other": "Azygos|Clip",
                    "Support devices": True,
                }
                rows.append(
                    {
                        "id": name,
                        "split": split,
                        "eye_tracking_data_discarded": discarded,
                        "image": path,
                        "dicom_id": dicom(i),
                        "subject_id": subject,
                        "image_size_x": WIDTH,
                        "image_size_y": HEIGHT,
                    }
                    | labels
                )
                write_reading(root / "main_data" / name, phase, discarded)
        write_crlf(root / "main_data" / f"metadata_phase_{phase}.csv", pd.DataFrame(rows))
    return root


def write_reading(folder: Path, phase: int, discarded: bool) -> None:
    # header alone
    ellipse = (
        [10, 20, 30, 60, 5, *["True"] * len(PHASE_LABELS[phase])]
        if folder.name != "P101R000002"
        else None
    )
    columns = ["xmin", "ymin", "xmax", "ymax"]
    write_crlf(
        folder / "anomaly_location_ellipses.csv",
        pd.DataFrame(
            [ellipse] if ellipse else [], columns=[*columns, "certainty", *PHASE_LABELS[phase]]
        ),
    )
    write_crlf(folder / "chest_bounding_box.csv", pd.DataFrame([[5, 10, 55, 80]], columns=columns))
    if discarded:
        return
    write_crlf(
        folder / "fixations.csv", pd.DataFrame(REFLACX_FIXATIONS[folder.name], columns=FIXATION)
    )
    words = [
        ("clear", 0.2, 0.6),
        (",", 0.6, 0.6),
        ("lungs", 0.7, 1.0),
        (".", 1.0, 1.0),
        ("no", 3.6, 3.8),
        ("mass", 3.8, 4.0),
        (".", 4.0, 4.0),
    ]
    write_crlf(
        folder / "timestamps_transcription.csv",
        pd.DataFrame(words, columns=["word", "timestamp_start_word", "timestamp_end_word"]),
    )
    (folder / "transcription.txt").write_text(f"clear, lungs. no mass. {folder.name}")


def write_crlf(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, lineterminator="\r\n")
