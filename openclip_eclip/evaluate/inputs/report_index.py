"""A FAISS index over reports, on disk: index.faiss, texts.jsonl and index.json.

index.json names the model that encoded the reports.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...config import UserError
from ...files import sha256, write_whole
from ...json_text import read_json

if TYPE_CHECKING:
    import faiss

KINDS = ("exact", "ivf", "hnsw")
SAMPLE = 1000  # number of queries that measure the recall of an index
# float32 products of unit vectors that differ by less may differ by the order of summation only
SAME = 1e-6


@dataclass
class ReportIndex:
    """Reports that are searched with image features.

    `texts`: the reports, in the order of the index; `facts`: kind, recall against exact search,
    model, data and so on.
    """

    index: faiss.Index
    texts: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def search(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(inner products float32, indices into `texts` int64), each (N, top), the nearest first.

        `queries` (N, D). `top` is cut to the number of texts. An approximate index that finds fewer
        fills the rest with -1.
        """
        return self.index.search(
            np.ascontiguousarray(queries, np.float32), min(top, len(self.texts))
        )


def build_index(unit: np.ndarray, texts: list[str], kind: str = "exact") -> ReportIndex:
    """Index unit text features (M, D) float32 by inner product.

    docs/decisions/0014 gives the settings of the approximate kinds.
    """
    faiss = _faiss()
    count, width = unit.shape
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "ivf":
        # lists of fewer than 39 points train badly (FAISS)
        lists = max(1, min(int(4 * count**0.5), count // 39))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = 16
        # takes a quarter of the time of FAISS's defaults; `measure_recall` shows the loss
        index.cp.niter, index.cp.max_points_per_centroid = 10, 64
        index.train(unit)
    else:
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
    index.add(unit)
    return ReportIndex(index, texts, {"kind": kind, "count": count, "width": width})


def measure_recall(
    index: ReportIndex, unit: np.ndarray, queries: np.ndarray, top: int = 10
) -> float:
    """Share of the exact `top` nearest of `unit` (M, D) that `index` finds.

    It is measured on at most SAMPLE of `queries` (N, D). A text counts if it is as near as the last
    of the exact results, so equal vectors can replace one another. An exact index has recall 1
    without a measurement.
    """
    if index.facts["kind"] == "exact":
        return 1.0
    sample = queries[np.random.default_rng(0).permutation(len(queries))[:SAMPLE]]
    exact, _ = build_index(unit, index.texts).search(sample, top)
    scores, _ = index.search(sample, top)
    return float((scores >= exact[:, -1:] - SAME).mean())


def save_index(index: ReportIndex, folder: Path) -> None:
    """Write the three files; index.json, with the hashes of the others, is last.

    UserError: `folder` holds files that are not an index.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "index.json").is_file():
        raise UserError(
            f"--save-index {folder}: holds files that are not an index; expected a new or empty"
            " folder, or an earlier index."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    partial = folder / f".index.faiss.{os.getpid()}.partial"
    # FAISS writes the file itself: an index may be as large as the memory
    _faiss().write_index(index.index, str(partial))
    os.replace(partial, folder / "index.faiss")
    write_whole(
        folder / "texts.jsonl",
        "".join(json.dumps({"text": text}) + "\n" for text in index.texts).encode(),
    )
    facts = {
        **index.facts,
        "files": {name: sha256(folder / name) for name in ("index.faiss", "texts.jsonl")},
    }
    write_whole(folder / "index.json", json.dumps(facts, indent=2).encode())


def load_index(folder: Path, weights_hash: str) -> ReportIndex:
    """Read an index for a model with `weights_hash` (encoder.hash_weights).

    UserError: no index, changed files, or an index of another model, which has another space.
    """
    faiss = _faiss()
    if not (folder / "index.json").is_file():
        raise UserError(
            f"--index {folder}: no index.json; expected a folder that `retrieval` or `reports`"
            " wrote with --save-index."
        )
    facts = _checked_facts(folder / "index.json")
    for name, expected in facts["files"].items():
        if not (folder / name).is_file() or sha256(folder / name) != expected:
            raise UserError(
                f"--index {folder}: {name} is missing or not the file that was written; write the"
                " index again."
            )
    if facts["encoder"]["weights_hash"] != weights_hash:
        encoder = facts["encoder"]
        raise UserError(
            f"--index {folder} was written with --model {encoder['model']} --pretrained"
            f" {encoder['pretrained']} (weights {encoder['weights_hash'][:12]}); the weights of"
            f" this model are {weights_hash[:12]}. Scores across models mean nothing: give that"
            " model, or write an index with this one."
        )
    lines = (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    try:
        index = faiss.read_index(str(folder / "index.faiss"))
        texts = [json.loads(line)["text"] for line in lines]
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"--index {folder}: index.faiss or texts.jsonl is damaged ({reason[:200]}); write the"
            " index again."
        ) from error
    if index.ntotal != len(texts):
        raise UserError(
            f"--index {folder}: {index.ntotal} vectors in index.faiss for {len(texts)} texts;"
            " expected one vector for each text. Write the index again."
        )
    return ReportIndex(index, texts, facts)


def _checked_facts(path: Path) -> dict[str, Any]:
    """The content of index.json. UserError: an entry that a search needs is missing or wrong."""
    facts = read_json(path)
    files, encoder = facts.get("files"), facts.get("encoder")
    if not isinstance(files, dict) or set(files) != {"index.faiss", "texts.jsonl"}:
        raise UserError(
            f"{path}: files is {str(files)[:80]}; expected the SHA-256 of index.faiss and"
            " texts.jsonl. Write the index again."
        )
    if not isinstance(encoder, dict) or not {"weights_hash", "model", "pretrained"} <= set(encoder):
        raise UserError(
            f"{path}: encoder is {str(encoder)[:80]}; expected weights_hash, model and pretrained"
            " of the model that encoded the reports. Write the index again."
        )
    return facts


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "retrieval and search need faiss: pip install 'openclip_eclip[evaluate]'."
        ) from error
    return faiss
