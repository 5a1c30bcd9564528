"""`openclip-eclip prepare NAME ...` prepares the data set NAME in the folder OUT.

Each module of DATASETS has `add_arguments(parser)` and `run(args) -> str`, which returns the
summary line. Only the requested module is imported, so no data set needs the dependencies of
another.
"""

import argparse
import sys

from ..subcommands import exit_code, parse_command

# name: (module, one line for --help)
DATASETS = {
    "phantom": (
        "openclip_eclip.phantom.command",
        "synthetic chest X-rays or head CT slices with reports and gaze; nothing to download",
    ),
    "annotations": (
        "openclip_eclip.prepare.annotations.command",
        "your images and texts, with what annotation tools or eye trackers export",
    ),
    "chexpert": (
        "openclip_eclip.prepare.datasets.chexpert",
        "CheXpert: labelled chest X-rays; chexpert-5x200",
    ),
    "mimic-cxr": (
        "openclip_eclip.prepare.datasets.mimic_cxr",
        "MIMIC-CXR: chest X-rays with reports, official splits; mimic-5x200",
    ),
    "egd-cxr": (
        "openclip_eclip.prepare.datasets.egd_cxr",
        "EGD-CXR: chest X-rays of MIMIC-CXR with one reader's gaze",
    ),
    "reflacx": (
        "openclip_eclip.prepare.datasets.reflacx",
        "REFLACX: chest X-rays of MIMIC-CXR with five readers' gaze, ellipses or chest boxes",
    ),
    "rsna": (
        "openclip_eclip.prepare.datasets.rsna",
        "RSNA Pneumonia: DICOM or JPEG with boxes; rsna-gloria, rsna-balanced",
    ),
    "nih-cxr14": (
        "openclip_eclip.prepare.datasets.nih_cxr14",
        "NIH ChestX-ray14: labels and boxes; cxr-14x100 (two class lists), cxr8",
    ),
    "eclip-shards": (
        "openclip_eclip.prepare.datasets.eclip_shards",
        "the eCLIP authors' shards, converted to this package's layout, with their heatmaps",
    ),
    "pseudo-heatmaps": (
        "openclip_eclip.pseudo_heatmaps",
        "your training data, plus heatmaps of where a trained model attends",
    ),
    "open-i": (
        "openclip_eclip.prepare.datasets.open_i",
        "Open-I: chest X-rays with reports; openi-5, retrieval, report generation",
    ),
    "covid-chestxray": (
        "openclip_eclip.prepare.datasets.covid_chestxray",
        "COVID-19 image collection: open chest X-rays with notes, lung boxes and zone scores",
    ),
    "coco": (
        "openclip_eclip.prepare.datasets.coco",
        "COCO 2017: photographs with captions, and masks of what each caption names",
    ),
    "flickr30k-entities": (
        "openclip_eclip.prepare.datasets.flickr30k_entities",
        "Flickr30k Entities: photographs with captions, and boxes of each phrase",
    ),
    "localized-narratives": (
        "openclip_eclip.prepare.datasets.localized_narratives",
        "Localized Narratives: spoken descriptions of photographs with the mouse's trace",
    ),
    "chestx-det": (
        "openclip_eclip.prepare.datasets.chestx_det",
        "ChestX-Det: outlines or boxes of 13 findings on images of ChestX-ray14",
    ),
    "ms-cxr": (
        "openclip_eclip.prepare.datasets.ms_cxr",
        "MS-CXR: phrases of reports of MIMIC-CXR with boxes",
    ),
    "vindr-cxr": (
        "openclip_eclip.prepare.datasets.vindr_cxr",
        "VinDr-CXR: boxes of 22 findings by three radiologists",
    ),
    "padchest-gr": (
        "openclip_eclip.prepare.datasets.padchest_gr",
        "PadChest-GR: sentences of reports with boxes, in English or Spanish",
    ),
    "mimic-eye": (
        "openclip_eclip.prepare.datasets.mimic_eye",
        "MIMIC-Eye: the gaze of EGD-CXR and REFLACX with images and reports",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one preparation; the exit code is 0, or 2 after one line `error: ...` on stderr."""
    parser = argparse.ArgumentParser(
        prog="openclip-eclip prepare", description="Prepares a data set."
    )
    module, args = parse_command(parser, "name", DATASETS, argv)
    return exit_code(lambda: module.run(args))


if __name__ == "__main__":
    sys.exit(main())
