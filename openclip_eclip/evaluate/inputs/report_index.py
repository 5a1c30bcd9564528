"""A FAISS index over reports on disk: index.faiss, texts.jsonl and index.json, which names the
model that made it.
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
SAMPLE = 1000  # queries that measure the recall of an index
# two float32 products of unit vectors that differ less may be the same one, summed in another order
SAME = 1e-6


@dataclass
class ReportIndex:
    """Reports that can be searched by an image. `facts`: kind, recall against exact search, model,
    data, ...
    """

    index: faiss.Index
    texts: list[str]
    facts: dict[str, Any] = field(default_factory=dict)

    def search(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(inner products, places in `texts`), each (N, top), the nearest first; `top` is cut to
        the number of texts.

        An approximate index that finds fewer fills up with places -1.
        """
        return self.index.search(
            np.ascontiguousarray(queries, np.float32), min(top, len(self.texts))
        )


def build_index(unit: np.ndarray, texts: list[str], kind: str = "exact") -> ReportIndex:
    """Index unit text features (M, D) float32 by inner product; settings of the approximate kinds:
    docs/decisions/0014.
    """
    faiss = _faiss()
    count, width = unit.shape
    if kind == "exact":
        index = faiss.IndexFlatIP(width)
    elif kind == "ivf":
        # fewer than 39 points a list train badly (FAISS)
        lists = max(1, min(int(4 * count**0.5), count // 39))
        index = faiss.IndexIVFFlat(
            faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT
        )
        index.nprobe = 16
        # a quarter of FAISS's time; the recall says what it costs
        index.cp.niter, index.cp.max_points_per_centroid = (
            10,
            64,
        )
        index.train(unit)
    else:
        index = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = 200, 128
    index.add(unit)
    return ReportIndex(index, texts, {"kind": kind, "count": count, "width": width})


def measure_recall(
    index: ReportIndex, unit: np.ndarray, queries: np.ndarray, top: int = 10
) -> float:
    """Share of the exact `top` nearest of (M, D) `unit` that `index` finds, over at most 1000 of
    `queries` (N, D).

    A found text counts if it is as near as the last of the exact ones, so copies of a vector stand
    for one another. 1 for an exact index, which need not be built and searched again to know that.
    """
    if index.facts["kind"] == "exact":
        return 1.0
    sample = queries[np.random.default_rng(0).permutation(len(queries))[:SAMPLE]]
    exact, _ = build_index(unit, index.texts).search(sample, top)
    scores, _ = index.search(sample, top)
    return float((scores >= exact[:, -1:] - SAME).mean())


def save_index(index: ReportIndex, folder: Path) -> None:
    """Write the three files; index.json, with the hashes of the others, last. UserError if `folder`
    holds something else.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / "index.json").is_file():
        raise UserError(
            f"--save-index {folder}: holds files of something else; expected a new or empty folder,"
            " or an earlier index."
        )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "index.json").unlink(missing_ok=True)
    partial = folder / f".index.faiss.{os.getpid()}.partial"
    # not by way of bytes: an index may be as large as the memory
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
    """An index for a model with `weights_hash` (encoder.hash_weights).

    UserError: no index, files that are not those that were written, or an index of another model,
    whose space is another.
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
                f"--index {folder}: {name} is missing or not the file that was written; make the"
                " index again."
            )
    if facts["encoder"]["weights_hash"] != weights_hash:
        made = facts["encoder"]
        raise UserError(
            f"--index {folder} was made by --model {made['model']} --pretrained"
            f" {made['pretrained']} (weights {made['weights_hash'][:12]}); this model's weights are"
            f" {weights_hash[:12]}. Scores across models mean nothing: give that model, or make an"
            " index with this one."
        )
    lines = (folder / "texts.jsonl").read_text(encoding="utf-8").splitlines()
    try:
        index = faiss.read_index(str(folder / "index.faiss"))
        texts = [json.loads(line)["text"] for line in lines]
    except (RuntimeError, ValueError, LookupError, TypeError) as error:
        said = " ".join(str(error).split())
        raise UserError(
            f"--index {folder}: index.faiss or texts.jsonl is damaged ({said[:200]}); make the"
            " index again."
        ) from error
    if index.ntotal != len(texts):
        raise UserError(
            f"--index {folder}: {index.ntotal} vectors in index.faiss for {len(texts)} texts; make"
            " the index again."
        )
    return ReportIndex(index, texts, facts)


def _checked_facts(path: Path) -> dict[str, Any]:
    """index.json; UserError for an entry that a search needs and that is missing or misshapen."""
    facts = read_json(path)
    files, made = facts.get("files"), facts.get("encoder")
    if not isinstance(files, dict) or set(files) != {"index.faiss", "texts.jsonl"}:
        raise UserError(
            f"{path}: files is {str(files)[:80]}; expected the SHA-256 of index.faiss and"
            " texts.jsonl. Make the index again."
        )
    if not isinstance(made, dict) or not {"weights_hash", "model", "pretrained"} <= set(made):
        raise UserError(
            f"{path}: encoder is {str(made)[:80]}; expected the facts of the model that made it."
            " Make the index again."
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
