"""Two more questions to a trained model: which of two photographs, and how severe.

*Two-way choice* (winograd_gaze): two photographs of a scene look alike and mean different things.
A sentence about one of them is right if its own photograph is the more similar one.
*Severity* (covid_cxr): Spearman's rank correlation between the Brixia score of a radiograph and
its similarity to sentences of severe disease less that to sentences of clear lungs.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import spearmanr

from openclip_eclip.evaluate.inputs.encoder import Encoder, load_encoder

# written once, before any model was asked
SEVERE = (
    "Severe bilateral consolidation in all lung zones.",
    "Diffuse bilateral opacities involving both lungs extensively.",
    "Extensive bilateral airspace disease, acute respiratory distress syndrome.",
)
CLEAR = (
    "Clear lungs without consolidation.",
    "Normal chest radiograph.",
    "No opacities in either lung.",
)


def two_way(model: Path, folder: Path, rows: pd.DataFrame) -> dict[str, float]:
    """Share of right choices, as the mean over scenes.

    `rows`: sentences of the test scenes (filepath, title, group, heatmap); those with a map are of
    the two photographs of a scene, the others of photographs with an erased object.
    """
    encoder = load_encoder(str(model), device="cpu")
    described = rows[rows["heatmap"] != ""]
    right = []
    for _, scene in described.groupby("group"):
        paths = sorted(scene["filepath"].unique())
        if len(paths) != 2:
            continue
        images = _images(encoder, [folder / path for path in paths])
        texts = encoder.encode_texts(encoder.tokenizer(list(scene["title"])))
        chosen = (texts @ images.T).argmax(dim=1).numpy()
        right.append(np.mean(chosen == [paths.index(path) for path in scene["filepath"]]))
    return {"share": float(np.mean(right)), "scenes": len(right)}


def severity(model: Path, folder: Path, rows: pd.DataFrame, shared: Path) -> dict[str, float]:
    """Rank correlation with the mean Brixia sum of two readers over the scored test images.

    `rows`: the test images (filepath `images/0007.jpg` is row 7 of the set's pairs.csv).
    """
    encoder = load_encoder(str(model), device="cpu")
    source = pd.read_csv(shared / "covid_cxr" / "pairs.csv", dtype=str, keep_default_na=False)
    paths, scores = [], []
    for path in rows["filepath"].unique():
        row = source.iloc[int(Path(path).stem)]
        readers = [json.loads(row[f"brixia_{who}"] or "[]") for who in ("senior", "junior")]
        given = [sum(zones) for zones in readers if zones]
        if given:
            paths.append(folder / path)
            scores.append(float(np.mean(given)))
    images = _images(encoder, paths)
    severe, clear = (
        (images @ encoder.encode_texts(encoder.tokenizer(list(prompts))).T).mean(dim=1)
        for prompts in (SEVERE, CLEAR)
    )
    found = spearmanr((severe - clear).numpy(), scores)
    return {"correlation": float(found.statistic), "images": len(paths)}


def _images(encoder: Encoder, paths: list[Path]) -> torch.Tensor:
    pixels = torch.stack([encoder.transform(Image.open(path).convert("RGB")) for path in paths])
    return encoder.encode_images(pixels)[0]
