"""Metrics of reports that need a model: BERTScore, sentence embeddings, CheXbert, RadGraph.

Weights come from local folders only. Models and hashes are cached between calls, so several writers
on one test set load them once. An empty candidate scores 0.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import pickle
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

BATCH = 32


class Encoder(NamedTuple):
    """A text model in evaluation mode (no dropout), its tokenizer, and its name in the report."""

    model: torch.nn.Module
    tokenizer: Any
    longest: int  # tokens; longer texts are cut
    name: str


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder}: no config.json; expected a transformers model (hf download NAME --local-dir"
            f" {folder})."
        )
    return AutoConfig.from_pretrained(folder, local_files_only=True)


@functools.lru_cache(maxsize=4)
def load_encoder(folder: Path, layers: int | None, device: str) -> Encoder:
    """Load a transformers model from `folder`, with its first `layers` layers, or all for None.

    Layers can be chosen for models like BERT. ValueError: no model.
    """
    from transformers import AutoModel, AutoTokenizer

    config = _config(folder)
    model = AutoModel.from_pretrained(folder, local_files_only=True).float().eval().to(device)
    if layers is not None:
        model.encoder.layer = model.encoder.layer[:layers]
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    settings = folder / "sentence_bert_config.json"
    longest = json.loads(settings.read_text())["max_seq_length"] if settings.is_file() else None
    return Encoder(model, tokenizer, longest or tokenizer.model_max_length, weights_name(folder))


@functools.lru_cache(maxsize=16)
def weights_name(folder: Path, pattern: str = "") -> str:
    """Name and hash of the weights in `folder`: `FOLDER, FILE sha256 0123456789abcdef`.

    All shards are hashed together, or the files that match `pattern`.
    """
    files = sorted(folder.glob(pattern or "*.safetensors")) or sorted(
        folder.glob(pattern or "*.bin")
    )
    if not files:
        raise ValueError(f"{folder}: no weights; expected {pattern or '*.safetensors or *.bin'}.")
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    cached = folder.absolute().parent  # .../models--ORG--NAME/snapshots/COMMIT of the hub's cache
    name = (
        cached.parent.name.removeprefix("models--").replace("--", "/")
        if cached.name == "snapshots"
        else folder.name
    )
    return (
        f"{name}, {files[0].name}{f' and {len(files) - 1} more' if files[1:] else ''} sha256"
        f" {digest.hexdigest()[:16]}"
    )


def encode(encoder: Encoder, texts: list[str], pooling: str) -> tuple[np.ndarray, int]:
    """(vectors (N, D) float64, number of cut texts); equal texts are encoded once.

    `pooling` "mean": mean over the tokens; else the first token.
    """
    unique = sorted(set(texts), key=len, reverse=True)
    device = next(encoder.model.parameters()).device
    vectors: dict[str, np.ndarray] = {}
    cut: set[str] = set()
    for start in range(0, len(unique), BATCH):
        part = unique[start : start + BATCH]
        cut |= {
            text
            for text, ids in zip(part, encoder.tokenizer(part)["input_ids"])
            if len(ids) > encoder.longest
        }
        tokens = encoder.tokenizer(
            part, padding=True, truncation=True, max_length=encoder.longest, return_tensors="pt"
        )
        tokens = tokens.to(device)
        with torch.inference_mode():
            states = encoder.model(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            ).last_hidden_state
            mask = tokens["attention_mask"][..., None].to(states.dtype)
            pooled = (states * mask).sum(1) / mask.sum(1) if pooling == "mean" else states[:, 0]
        vectors.update(zip(part, pooled.double().cpu().numpy()))
    return np.stack([vectors[text] for text in texts]), sum(text in cut for text in texts)


def _cosine(candidates: list[str], vectors: np.ndarray, true_vectors: np.ndarray) -> np.ndarray:
    """Cosines (N,) of rows of `vectors` and `true_vectors`, each (N, D).

    0 for an empty candidate, whose vector comes from special tokens alone.
    """
    cosine = (vectors * true_vectors).sum(1) / (
        np.linalg.norm(vectors, axis=1) * np.linalg.norm(true_vectors, axis=1)
    )
    return np.where([bool(text) for text in candidates], cosine, 0.0)


def sentence_cosine(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """S_emb of Tab. 3: cosine of sentence vectors. (N,) in [-1, 1].

    The sentence-transformers settings of the folder choose the pooling.
    """
    pooling = _pooling(folder)
    encoder = load_encoder(folder, None, device)
    vectors, cut = encode(encoder, candidates + references, pooling)
    count = len(candidates)
    return (
        _cosine(candidates, vectors[:count], vectors[count:]),
        (
            f"{encoder.name}, {pooling} of tokens, "
            f"{cut} of {2 * count} texts cut at {encoder.longest} tokens"
        ),
    )


def _pooling(folder: Path) -> str:
    """`mean` or `cls`, as 1_Pooling in the folder says; `mean` for a plain transformers folder.

    ValueError: another pooling.
    """
    modules = folder / "modules.json"
    kinds = (
        [module["type"].rpartition(".")[2] for module in json.loads(modules.read_text())]
        if modules.is_file()
        else []
    )
    path = folder / "1_Pooling" / "config.json"
    settings = json.loads(path.read_text()) if path.is_file() else {"pooling_mode": "mean"}
    modes = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    chosen = [
        modes.get(key, key)
        for key, on in settings.items()
        if key.startswith("pooling_mode_") and on
    ]
    chosen = chosen or [settings.get("pooling_mode")]
    if set(kinds) - {"Transformer", "Pooling", "Normalize"} or chosen not in (["mean"], ["cls"]):
        raise ValueError(
            f"{folder}: modules {kinds}, pooling {chosen}; expected only a transformer, pooled by"
            " mean or cls."
        )
    return chosen[0]


def bertscore_recall(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """B-R of Tab. 3: BERTScore recall by bert-score, no idf, no rescaling. (N,) float64.

    The layer is that of bert-score's table if the folder has the name of a model in it, else 3/4 of
    the depth; for bert-base-uncased both give 9 of 12. torchmetrics 1.9 is not used: it pairs the
    wrong reports if lengths differ (docs/decisions/0022).
    """
    from bert_score.utils import bert_cos_score_idf, model2layers

    depth = _config(folder).num_hidden_layers
    layer = model2layers.get(folder.name, math.ceil(0.75 * depth))
    if layer > depth:
        raise ValueError(
            f"{folder}: layer {layer} of {depth}; bert-score's table has this layer for"
            f" {folder.name}. Expected a model that is deep enough: rename the folder."
        )
    encoder = load_encoder(folder, layer, device)
    idf = defaultdict(
        lambda: 1.0, {encoder.tokenizer.sep_token_id: 0, encoder.tokenizer.cls_token_id: 0}
    )
    # bert-score scores "" as 0, but fails on it under transformers 5
    rows = [i for i, text in enumerate(candidates) if text]
    values = np.zeros(len(candidates))
    if rows:
        true, written = [references[i] for i in rows], [candidates[i] for i in rows]
        scores = bert_cos_score_idf(
            encoder.model, true, written, encoder.tokenizer, idf, device=device, batch_size=BATCH
        )
        values[rows] = scores[:, 1].double().numpy()
    return (
        values,
        (
            f"{encoder.name}, layer {layer} of {depth}, no idf, no rescaling, bert-score"
            f" {version('bert-score')}"
        ),
    )


class CheXbert(torch.nn.Module):
    """CheXbert's labeller (Smit et al. 2020): a BERT with 14 linear heads on its CLS token.

    13 heads have four classes, the last has two.
    """

    def __init__(self, config: Any) -> None:
        from transformers import BertModel

        super().__init__()
        self.bert = BertModel(config)
        self.linear_heads = torch.nn.ModuleList(
            torch.nn.Linear(config.hidden_size, classes) for classes in [4] * 13 + [2]
        )

    def forward(self, **tokens: torch.Tensor) -> Any:
        return self.bert(**tokens)


@functools.lru_cache(maxsize=1)
def _load_chexbert(folder: Path, device: str) -> Encoder:
    """Load chexbert.pth in evaluation mode.

    The release of the paper scored with dropout on, which is random and biased low.
    """
    from transformers import BertConfig, BertTokenizer

    absent = [
        name
        for name in ("chexbert.pth", "config.json", "vocab.txt")
        if not (folder / name).is_file()
    ]
    if absent:
        raise ValueError(
            f"{folder}: no {', '.join(absent)}; expected chexbert.pth with the config.json and"
            " vocab.txt of bert-base-uncased."
        )
    try:
        state = torch.load(folder / "chexbert.pth", map_location="cpu", weights_only=True)[
            "model_state_dict"
        ]
    except (pickle.UnpicklingError, KeyError) as error:
        raise ValueError(
            f"{folder}/chexbert.pth: {error}; expected tensors under 'model_state_dict'. If you"
            " trust it, load it once with weights_only=False and save {'model_state_dict': ...}."
        ) from error
    model = CheXbert(BertConfig.from_pretrained(folder))
    state = {
        key.removeprefix("module."): value
        for key, value in state.items()
        if not key.endswith("position_ids")
    }
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"{folder}/chexbert.pth does not fit config.json: {error}") from error
    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    longest = model.bert.config.max_position_embeddings
    return Encoder(
        model.eval().to(device), tokenizer, longest, weights_name(folder, "chexbert.pth")
    )


Labelled = tuple[np.ndarray, np.ndarray]


def chexbert(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[Labelled, Labelled, str]:
    """(labels (N, 14) bool, CLS vectors (N, D) float64) of both sides, and the name of the weights.

    The candidates come first. Positive and uncertain (classes 1 and 3) are True, blank and negative
    are False. Of the last head, no finding, class 1 is True.
    """
    encoder = _load_chexbert(folder, device)
    vectors = _chexbert_vectors(encoder, (*candidates, *references))
    heads = encoder.model.linear_heads
    assert isinstance(heads, torch.nn.ModuleList)
    with torch.inference_mode():
        features = torch.from_numpy(vectors).float().to(device)
        classes = [head(features).argmax(1).cpu().numpy() for head in heads]  # 14 of (2N,)
        labels = np.stack(classes, axis=1) % 2 == 1
    count = len(candidates)
    return (labels[:count], vectors[:count]), (labels[count:], vectors[count:]), encoder.name


@functools.lru_cache(maxsize=1)
def _chexbert_vectors(encoder: Encoder, texts: tuple[str, ...]) -> np.ndarray:
    return encode(encoder, list(texts), "cls")[0]  # cached, because two metrics use it


def chexbert_cosine(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """CB_emb of Tab. 3: cosine of the CLS vectors of CheXbert's BERT. (N,) in [-1, 1]."""
    (_, vectors), (_, true_vectors), name = chexbert(candidates, references, folder, device)
    return _cosine(candidates, vectors, true_vectors), f"CLS, {name}"


def radgraph_f1(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """RadGraph F1 (`partial`: entities, and whether they have relations). (N,) in [0, 1].

    It uses the package radgraph, which reads its tokenizer from the cache of the hub. It was never
    run here with its weights.
    """
    kind = next(
        (name for name in ("radgraph-xl", "radgraph") if (folder / name / "weights.th").is_file()),
        None,
    )
    if kind is None:
        raise ValueError(
            f"{folder}: no radgraph-xl/weights.th and no radgraph/weights.th; expected the folder"
            " that the package radgraph unpacks."
        )
    from radgraph import F1RadGraph

    cuda = -1 if device == "cpu" else int(device.partition(":")[2] or 0)
    scorer = F1RadGraph(
        reward_level="partial", model_type=kind, model_cache_dir=str(folder), cuda=cuda
    ).eval()
    _, values, _, _ = scorer(refs=references, hyps=candidates)
    return (
        np.array(values, dtype=np.float64),
        f"partial, {weights_name(folder / kind, 'weights.th')}",
    )
