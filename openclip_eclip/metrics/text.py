"""Metrics of generated reports against true reports: strings in, a number for each report out.

§4.4, Tab. 3.

    scored = score_reports(candidates, references, {"sentence": "all-mpnet-base-v2"})
    scored["BLEU-2"].value(), bootstrap_interval(scored["BLEU-2"].value, len(candidates)),
    scored["CB_emb"].missing

METEOR is left out: it needs WordNet, which its library downloads (docs/decisions/0022).
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import text_models
from .finding_labels import PRESENT, label_matrix

_SPECIAL = re.compile(
    r"<\|[^|<>]*\|>|</?s>|<(?:pad|unk|bos|eos|start_of_turn|end_of_turn)>|\[(?:/?INST|PAD|CLS|SEP|UNK|MASK)\]"
)
_PREFIX = re.compile(r"\A[\s*#_]*(?:findings|report)[\s*_]*:[\s*_]*", re.IGNORECASE)


class Scored(NamedTuple):
    """One metric over N reports, or the reason why it is missing (`values` is then None)."""

    # float64: (N,) the metric of each report, or (N, K) counts that `combine` reduces to a number
    values: np.ndarray | None
    combine: Callable[[np.ndarray], float] = np.mean  # rows of `values` -> the metric
    setting: str = ""  # library with version, tokenizer, weights with their hash
    # number of empty candidates: each counts as 0, or as a report without n-grams or labels
    empty: int = 0
    missing: str = ""

    def value(self, rows: np.ndarray | slice = slice(None)) -> float:
        """The metric over all reports, or over `rows`, as `bootstrap_interval` needs it.

        ValueError: the metric is missing.
        """
        if self.values is None:
            raise ValueError(f"a missing metric has no value: {self.missing}")
        return float(self.combine(self.values[rows]))


class Metric(NamedTuple):
    """How a metric is computed: `function(candidates, references)`.

    If it needs a model, `folder` and `device` follow.
    """

    function: Callable[..., tuple[np.ndarray, str]]
    model: str = ""  # key of `models` in `score_reports`
    needs: str = ""  # expected content of that folder
    combine: Callable[[np.ndarray], float] = np.mean


def clean_report(text: str) -> str:
    """A report without special tokens of language models and without a leading `findings:`.

    White space is collapsed.
    """
    return _PREFIX.sub("", " ".join(_SPECIAL.sub(" ", text).split()), count=1).strip()


def report_tokens(text: str) -> list[str]:
    """NLTK's word tokens, cased.

    A `.`, `!` or `?` and a space end a sentence; NLTK's `word_tokenize` needs a downloaded model
    for that.
    """
    from nltk.tokenize import NLTKWordTokenizer

    return [
        token
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        for token in NLTKWordTokenizer().tokenize(sentence)
    ]


def bleu_2(candidates: list[str], references: list[str]) -> tuple[np.ndarray, str]:
    """BL-2 of Tab. 3: sentence BLEU of each report (N,) in [0, 1], weights (1/2, 1/2), unsmoothed.

    The mean is the metric. Without a common pair of words it is 0, where NLTK warns and gives
    1e-154. So an identical report of one word has 0, too.
    """
    from nltk.translate.bleu_score import sentence_bleu

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="\\s*The hypothesis contains 0 counts")
        values = np.array(
            [
                sentence_bleu(
                    [report_tokens(reference)], report_tokens(candidate), weights=(0.5, 0.5)
                )
                for candidate, reference in zip(candidates, references)
            ],
            dtype=np.float64,
        )
    return (
        np.where(values > 1e-100, values, 0.0),
        f"mean sentence BLEU, no smoothing, NLTKWordTokenizer, nltk {version('nltk')}",
    )


def bleu_4_counts(candidates: list[str], references: list[str]) -> tuple[np.ndarray, str]:
    """Counts (N, 10) that corpus BLEU-4 sums over reports.

    Columns: common n-grams (1-4), n-grams of the candidate (1-4), both lengths.
    """
    from sacrebleu.metrics import BLEU

    bleu, rows = BLEU(), []
    for candidate, reference in zip(candidates, references):
        score = bleu.corpus_score([candidate], [[reference]])
        rows.append([*score.counts, *score.totals, score.sys_len, score.ref_len])
    return np.array(rows, dtype=np.float64), f"corpus BLEU, sacrebleu {bleu.get_signature()}"


def corpus_bleu_4(counts: np.ndarray) -> float:
    """sacrebleu's corpus BLEU-4 of rows of `bleu_4_counts`, from 0 to 1, not in percent."""
    from sacrebleu.metrics import BLEU

    total = counts.sum(axis=0).astype(int).tolist()
    return (
        BLEU.compute_bleu(total[:4], total[4:8], total[8], total[9], smooth_method="exp").score
        / 100
    )


def rouge_l(candidates: list[str], references: list[str]) -> tuple[np.ndarray, str]:
    """F1 of the longest common subsequence of words, lower case, no stemming. (N,) in [0, 1]."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    values = [
        scorer.score(reference, candidate)["rougeL"].fmeasure
        for candidate, reference in zip(candidates, references)
    ]
    return (
        np.array(values, dtype=np.float64),
        f"F1, no stemming, rouge-score {version('rouge-score')}",
    )


def dictionary_counts(candidates: list[str], references: list[str]) -> tuple[np.ndarray, str]:
    """`label_counts` (N, 3) of the findings of `finding_labels`; uncertain is not present."""
    counts = label_counts(label_matrix(candidates) == PRESENT, label_matrix(references) == PRESENT)
    return (
        counts,
        (
            "micro-F1 of findings present by the dictionary of metrics/finding_phrases.json: a rule"
            " of thumb"
        ),
    )


def label_counts(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Counts (N, 3) float64 of labels in both, in the candidate only, in the reference only.

    `candidate`, `reference` (N, labels) bool.
    """
    parts = (candidate & reference, candidate & ~reference, ~candidate & reference)
    return np.stack([part.sum(axis=1) for part in parts], axis=1).astype(np.float64)


def micro_f1(counts: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all reports and labels; NaN if there is no label."""
    both, extra, missed = counts.sum(axis=0)
    return 2 * both / (2 * both + extra + missed) if both + extra + missed else np.nan


def chexbert_counts(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """`label_counts` (N, 3) of CheXbert's 14 labels; uncertain counts as positive."""
    (labels, _), (true_labels, _), setting = text_models.chexbert(
        candidates, references, folder, device
    )
    labels = labels & np.array([bool(text) for text in candidates])[:, None]
    return label_counts(
        labels, true_labels
    ), f"micro-F1 of 14 labels, uncertain as positive, {setting}"


_CHEXBERT = "chexbert.pth (Stanford) with config.json and vocab.txt of bert-base-uncased"
METRICS = {
    "BLEU-2": Metric(bleu_2),
    "BLEU-4 (corpus)": Metric(bleu_4_counts, combine=corpus_bleu_4),
    "ROUGE-L": Metric(rouge_l),
    "label F1 (dictionary)": Metric(dictionary_counts, combine=micro_f1),
    "BERTScore recall": Metric(
        text_models.bertscore_recall, "bertscore", "a BERT; bert-base-uncased in the paper"
    ),
    "S_emb": Metric(
        text_models.sentence_cosine,
        "sentence",
        "a sentence-transformers model; all-mpnet-base-v2 in the paper",
    ),
    "CB_emb": Metric(text_models.chexbert_cosine, "chexbert", _CHEXBERT),
    "CheXbert-F1": Metric(chexbert_counts, "chexbert", _CHEXBERT, micro_f1),
    "RadGraph-F1": Metric(
        text_models.radgraph_f1,
        "radgraph",
        "radgraph-xl/ or radgraph/ as the package radgraph unpacks them",
    ),
}


def score_reports(
    candidates: Sequence[str],
    references: Sequence[str],
    models: Mapping[str, str | Path] | None = None,
    device: str = "cpu",
) -> dict[str, Scored]:
    """All metrics of METRICS; `clean_report` is applied to both sides first.

    Args:
        candidates: N generated reports; "" is allowed and counted.
        references: N true reports, in the same order.
        models: local folders, by `bertscore`, `sentence`, `chexbert`, `radgraph`; nothing is
            downloaded.
    Raises:
        ValueError: arguments that are not lists of strings, different lengths, an empty reference,
            an unknown or unusable model.
    """
    models = models or {}
    texts = _checked(candidates, "candidates"), _checked(references, "references")
    if len(texts[0]) != len(texts[1]) or not texts[0]:
        raise ValueError(
            f"{len(texts[0])} candidates, {len(texts[1])} references; expected equal numbers, and"
            " at least one."
        )
    if "" in texts[1]:
        raise ValueError(
            f"reference {texts[1].index('')} is empty; expected a report. Leave the pair out and"
            " count it."
        )
    known = {metric.model for metric in METRICS.values()} - {""}
    if set(models) - known:
        raise ValueError(
            f"models for {sorted(set(models) - known)}; expected some of {sorted(known)}."
        )
    return {name: _score(metric, *texts, models, device) for name, metric in METRICS.items()}


def _score(
    metric: Metric,
    candidates: list[str],
    references: list[str],
    models: Mapping[str, str | Path],
    device: str,
) -> Scored:
    if metric.model and metric.model not in models:
        return Scored(
            None, missing=f"no folder given for {metric.model!r}; it needs {metric.needs}"
        )
    try:
        model = (Path(models[metric.model]), device) if metric.model else ()
        values, setting = metric.function(candidates, references, *model)
    except ModuleNotFoundError as error:
        extra = "radgraph" if metric.model == "radgraph" else "reports"
        return Scored(
            None, missing=f"no library {error.name!r}; pip install 'openclip_eclip[{extra}]'"
        )
    return Scored(values, metric.combine, setting, candidates.count(""))


def _checked(texts: Sequence[str], name: str) -> list[str]:
    """Cleaned texts. ValueError: not a list of strings.

    A string in the place of a list, or lists of words in the place of strings, would give wrong
    numbers without an error.
    """
    if isinstance(texts, str) or any(not isinstance(text, str) for text in texts):
        kind = (
            "a string"
            if isinstance(texts, str)
            else next(type(text).__name__ for text in texts if not isinstance(text, str))
        )
        raise ValueError(f"{name}: {kind}; expected a list of strings, one for each report.")
    return [clean_report(text) for text in texts]
