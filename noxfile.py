"""`nox -s lowest` and `nox -s newest`: tests with the lowest versions that setup.cfg allows, or the
newest there are. `nox -s main -- FOLDER`: with the open_clip whose source is in FOLDER. CI runs
none of them, since each environment has several gigabytes.
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
# what an open_clip that is not released must hold, training with its own loop among it
MAIN = (
    *TESTS,
    "tests/attention",
    "tests/evaluate",
    "tests/objectives",
    "tests/test_checkpoint.py",
    "tests/test_distributed.py",
    "tests/test_export.py",
    "tests/test_flag_checks.py",
    "tests/test_loss_gradient_factor.py",
    "tests/test_model_folder.py",
    "tests/test_open_clip_names.py",
    "tests/test_same_text.py",
    "tests/test_stock_equality.py",
    "tests/training_patches",
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


@nox.session
def main(session: nox.Session) -> None:
    """The open_clip in the folder that is given behind `--`, with scripts/constraints.txt."""
    if len(session.posargs) != 1:
        session.error("expected one folder with the source of open_clip: nox -s main -- FOLDER")
    install(
        *(session, "-c", "scripts/constraints.txt"),
        extras="annotations,dicom,evaluate,lora,reports,tensorboard",
    )
    session.install("--no-deps", "--force-reinstall", session.posargs[0])
    run(session, *MAIN)


def test(session: nox.Session, *options: str) -> None:
    """Installs the package with `options` of pip and runs TESTS."""
    install(session, *options)
    run(session, *TESTS)


def install(session: nox.Session, *options: str, extras: str = "dicom,evaluate,reports") -> None:
    session.install(*options, "-e", f".[{extras}]", "pytest", "pytest-timeout")
    session.install("--no-deps", "-r", "scripts/test-packages.txt")


def run(session: nox.Session, *tests: str) -> None:
    session.run(
        *("python", "-m", "pytest", "-p", "no:cacheprovider", *tests),
        env={"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )
