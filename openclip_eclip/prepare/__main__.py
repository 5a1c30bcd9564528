"""`python -m openclip_eclip.prepare NAME OUT ...`: make the data set NAME under the folder OUT.

Each module of the table below offers `add_arguments(parser)` and `run(args) -> str` (the summary
line). Only the module that was asked for is imported, so that one data set's dependencies never
stand in the way of another.
"""

import argparse
import sys

from ..subcommands import exit_code, parse_command

# name: (module, one line for --help)
DATASETS = {
    "phantom": (
        "openclip_eclip.phantom.generate",
        "synthetic chest films, reports and gaze; nothing to download",
    ),
    "chexpert": (
        "openclip_eclip.prepare.datasets.chexpert",
        "CheXpert: labelled images, chexpert-5x200",
    ),
    "mimic-cxr": (
        "openclip_eclip.prepare.datasets.mimic_cxr",
        "MIMIC-CXR: films with reports, official splits, mimic-5x200",
    ),
    "egd-cxr": (
        "openclip_eclip.prepare.datasets.egd_cxr",
        "EGD-CXR: films of MIMIC-CXR with one reader's gaze",
    ),
    "reflacx": (
        "openclip_eclip.prepare.datasets.reflacx",
        "REFLACX: films of MIMIC-CXR with five readers' gaze, ellipses or chest boxes",
    ),
    "rsna": (
        "openclip_eclip.prepare.datasets.rsna",
        "RSNA Pneumonia: DICOM or JPEG, boxes; rsna-gloria, rsna-balanced",
    ),
    "nih-cxr14": (
        "openclip_eclip.prepare.datasets.nih_cxr14",
        "NIH ChestX-ray14: labels, boxes; cxr-14x100 (two class lists), cxr8",
    ),
    "eclip-shards": (
        "openclip_eclip.prepare.datasets.eclip_shards",
        "the eCLIP authors' shards to ours, with their heatmaps",
    ),
    "pseudo-heatmaps": (
        "openclip_eclip.pseudo_heatmaps",
        "training data again, with heatmaps of where a trained model looks",
    ),
    "open-i": (
        "openclip_eclip.prepare.datasets.open_i",
        "Open-I: reports; openi-5, retrieval, report generation",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Run one preparation; returns the exit code: 0, or 2 after one line `error: ...` on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m openclip_eclip.prepare", description="Make a data set."
    )
    module, args = parse_command(parser, "name", DATASETS, argv)
    return exit_code(lambda: module.run(args))


if __name__ == "__main__":
    sys.exit(main())
