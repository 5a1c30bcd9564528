"""The dictionary of findings: sentences by hand, and Open-I's curated terms if installed."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from openclip_eclip.metrics.finding_labels import (
    ABSENT,
    NO_FINDING,
    PRESENT,
    UNCERTAIN,
    finding_names,
    label_matrix,
    label_report,
)
from openclip_eclip.prepare.datasets.open_i_reports import read_reports
from openclip_eclip.prepare.plan import Plan


@pytest.mark.parametrize(
    "text,expected",
    [
        ("Small left pleural effusion.", {"pleural effusion": PRESENT}),
        (
            "No pneumothorax, effusion or focal consolidation.",
            {"pneumothorax": ABSENT, "pleural effusion": ABSENT, "consolidation": ABSENT},
        ),
        (
            "No pneumothorax. Small effusion.",
            {"pneumothorax": ABSENT, "pleural effusion": PRESENT},
        ),  # a sentence ends the negation
        (
            "No pneumothorax but a small effusion",
            {"pneumothorax": ABSENT, "pleural effusion": PRESENT},
        ),
        ("Cardiomegaly without edema", {"cardiomegaly": PRESENT, "edema": ABSENT}),
        (
            "Lungs are free of consolidation. Negative for fracture.",
            {"consolidation": ABSENT, "fracture": ABSENT},
        ),
        ("The heart is mildly enlarged.", {"cardiomegaly": PRESENT}),
        ("The heart is not enlarged.", {"cardiomegaly": ABSENT}),
        ("Heart size is normal.", {"cardiomegaly": ABSENT}),
        ("A pneumothorax is not seen.", {"pneumothorax": ABSENT}),
        ("Possible pneumonia.", {"pneumonia": UNCERTAIN}),
        ("Pneumonia cannot be excluded", {"pneumonia": UNCERTAIN}),
        ("No change in the right nodule", {"nodule": PRESENT}),
        ("Nodules and masses", {"nodule": PRESENT, "mass": PRESENT}),
        (
            "Opacity may be atelectasis. Left atelectasis.",
            {"opacity": PRESENT, "atelectasis": PRESENT},
        ),  # present beats uncertain
        ("No edema. Edema.", {"edema": PRESENT}),
        ("Possible edema. No edema.", {"edema": UNCERTAIN}),
        ("Pericardial effusion", {}),
        ("0.5 cm nodule", {"nodule": PRESENT}),
        ("Hyperinflation with no hernia", {"emphysema": PRESENT, "hernia": ABSENT}),
        ("Casino edema", {"edema": PRESENT}),
        ("No 0.5 cm nodule", {"nodule": ABSENT}),
        (
            "Effusion but a pneumothorax is not seen",
            {"pleural effusion": PRESENT, "pneumothorax": ABSENT},
        ),
        ("Pacemaker", {"support devices": PRESENT}),
        ("northern lung", {}),
        ("", {}),
    ],
)
def test_by_hand(text: str, expected: dict[str, int]) -> None:
    result = label_report(text)
    nothing = result.pop(NO_FINDING, None)
    assert result == expected
    other = any(state != ABSENT for name, state in expected.items() if name != "support devices")
    assert (nothing == PRESENT) == (bool(text) and not other)


def test_matrix_and_names() -> None:
    names = finding_names()
    assert len(set(names)) == len(names) == 19
    assert names[0] == NO_FINDING
    result = label_matrix(["No edema.", "Possible mass", ""])
    assert result.shape == (3, 19)
    assert result.dtype == np.int8
    assert result[2].sum() == 0
    assert result[0, 0] == PRESENT
    assert result[0, names.index("edema")] == ABSENT
    assert result[1, names.index("mass")] == UNCERTAIN
    assert label_matrix([]).shape == (0, 19)


@pytest.mark.slow
def test_open_i_terms() -> None:
    """Every eighth report; the phrases were not written on these.

    docs/decisions/0022 has the numbers of all even reports.
    """
    root = find_spec("torchxrayvision")
    if root is None:
        pytest.skip("needs the Open-I reports inside torchxrayvision")
    terms = {
        "cardiomegaly": "Cardiomegaly",
        "atelectasis": "Pulmonary Atelectasis",
        "pleural effusion": "Pleural Effusion",
        "edema": "Pulmonary Edema",
        "consolidation": "Consolidation",
        "pneumothorax": "Pneumothorax",
    }
    reports = [
        report
        for report in read_reports(Plan("open-i"), Path(root.origin).parent / "data")
        if int(report.uid) % 8 == 0 and (report.findings or report.impression)
    ]
    labels = [label_report(f"{report.findings}\n{report.impression}") for report in reports]
    both = predicted = true = 0
    for finding, term in terms.items():
        present = np.array([one.get(finding) == PRESENT for one in labels])
        listed = np.array([term in report.problems.split(";") for report in reports])
        both, predicted, true = (
            both + (present & listed).sum(),
            predicted + present.sum(),
            true + listed.sum(),
        )
    assert len(reports) > 400
    assert both / predicted > 0.9
    assert both / true > 0.85
