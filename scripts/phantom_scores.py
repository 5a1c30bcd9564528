"""Zero-shot macro-F1 and image->text recall of an exported model on a phantom test split; plain open_clip throughout."""
from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from torch.nn.functional import normalize


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@torch.no_grad()
def embed(model_folder: Path, data: Path, batch: int = 128) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(images (N, D), reports (N, D), class vectors (K, D)), unit length; class vector = mean of unit prompt vectors."""
    name = f"local-dir:{model_folder}"
    model, preprocess = open_clip.create_model_from_pretrained(name)
    tokenizer = open_clip.get_tokenizer(name)
    model.eval()
    rows = read_rows(data / "test.csv")
    images, texts = [], []
    for first in range(0, len(rows), batch):
        part = rows[first:first + batch]
        pixels = torch.stack([preprocess(Image.open(data / row["filepath"])) for row in part])
        images.append(model.encode_image(pixels, normalize=True))
        texts.append(model.encode_text(tokenizer([row["title"] for row in part]), normalize=True))
    prompts = json.loads((data / "classes.json").read_text(encoding="utf-8"))["prompts"]
    classes = [normalize(model.encode_text(tokenizer(sentences), normalize=True).mean(0), dim=0) for sentences in prompts.values()]
    return torch.cat(images), torch.cat(texts), torch.stack(classes)


def macro_f1(truth: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Mean of the classes' F1; a class without true and predicted samples counts 0."""
    scores = []
    for k in range(classes):
        hit = np.sum((truth == k) & (predicted == k))
        scores.append(2 * hit / max(1, np.sum(truth == k) + np.sum(predicted == k)))
    return float(np.mean(scores))


def score(model_folder: Path, data: Path) -> dict[str, float]:
    """macro_f1, and recall at 1, 5, 10 of the own report (or one with the same words) among all test reports."""
    rows = read_rows(data / "test.csv")
    images, texts, classes = embed(model_folder, data)
    truth = np.array([int(row["label"]) for row in rows])
    result = {"macro_f1": macro_f1(truth, (images @ classes.T).argmax(1).numpy(), len(classes))}
    reports = np.array([row["title"] for row in rows])
    ranked = (images @ texts.T).topk(10, dim=1).indices.numpy()
    hits = reports[ranked] == reports[:, None]
    return {**result, **{f"recall@{k}": float(hits[:, :k].any(1).mean()) for k in (1, 5, 10)}}
