"""Generated reports against the reports they stand for: strings in, one row of numbers a report out
(§4.4, Tab. 3).

    scored = score_reports(candidates, references, {"sentence": "all-mpnet-base-v2"})
    scored["BLEU-2"].value(), bootstrap_interval(scored["BLEU-2"].value, len(candidates)),
    scored["CB_emb"].missing

METEOR is left out: it needs WordNet, which no package brings and which its library downloads
(docs/decisions/0022).
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

    # float64: (N,) the metric of each report, or (N, K) counts that `combine` makes one number of

    values: np.ndarray | None
    combine: Callable[[np.ndarray], float] = np.mean  # rows of `values` -> the metric
    setting: str = ""  # library with version, tokenizer, weights with their hash
    # empty candidates among the N: each counts as 0, or as a report without n-grams or labels
    empty: int = 0
    missing: str = ""

    def value(self, rows: np.ndarray | slice = slice(None)) -> float:
        """The metric over all reports, or over `rows` (as `bootstrap_interval` asks); ValueError
        when missing.
        """
        if self.values is None:
            raise ValueError(f"a missing metric has no value: {self.missing}")
        return float(self.combine(self.values[rows]))


class Metric(NamedTuple):
    """How a metric is computed: `function(candidates, references)`, followed by `folder, device`
    where it needs a model.
    """

    function: Callable[..., tuple[np.ndarray, str]]
    model: str = ""  # key of `models` in `score_reports`
    needs: str = ""  # what has to be in that folder
    combine: Callable[[np.ndarray], float] = np.mean


def clean_report(text: str) -> str:
    """A report without special tokens of a language model, without a leading `findings:`, white
    space collapsed.
    """
    return _PREFIX.sub("", " ".join(_SPECIAL.sub(" ", text).split()), count=1).strip()


def report_tokens(text: str) -> list[str]:
    """NLTK's word tokens, cased. Its `word_tokenize` splits sentences by a downloaded model; here .
    ! ? and a space end one.
    """
    from nltk.tokenize import NLTKWordTokenizer

    return [
        token
        for sentence in re.split(r"(?<=[.!?])\s+", text)
        for token in NLTKWordTokenizer().tokenize(sentence)
    ]


def bleu_2(candidates: list[str], references: list[str]) -> tuple[np.ndarray, str]:
    """BL-2 of Tab. 3: sentence BLEU of each report, weights (1/2, 1/2), no smoothing; its mean is
    the metric. (N,) in [0, 1].

    Without a common pair of words it is 0: NLTK warns then and gives 1e-154. So is an identical
    report of one word.
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
    """What corpus BLEU-4 sums over reports: (N, 10), common n-grams (1-4), n-grams of the candidate
    (1-4), both lengths.
    """
    from sacrebleu.metrics import BLEU

    bleu, rows = BLEU(), []
    for candidate, reference in zip(candidates, references):
        one = bleu.corpus_score([candidate], [[reference]])
        rows.append([*one.counts, *one.totals, one.sys_len, one.ref_len])
    return np.array(rows, dtype=np.float64), f"corpus BLEU, sacrebleu {bleu.get_signature()}"


def corpus_bleu_4(counts: np.ndarray) -> float:
    """sacrebleu's corpus BLEU-4 of rows of `bleu_4_counts`, as a fraction, not in percent."""
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
    """(N, 3) as `label_counts`, of the findings of `finding_labels`; uncertain is not present."""
    counts = label_counts(label_matrix(candidates) == PRESENT, label_matrix(references) == PRESENT)
    return (
        counts,
        (
            "micro-F1 of findings present by the dictionary of metrics/finding_phrases.json: a rule"
            " of thumb"
        ),
    )


def label_counts(candidate: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """(N, 3) float64 from two (N, labels) bool: in both, in the candidate only, in the reference
    only.
    """
    parts = (candidate & reference, candidate & ~reference, ~candidate & reference)
    return np.stack([part.sum(axis=1) for part in parts], axis=1).astype(np.float64)


def micro_f1(counts: np.ndarray) -> float:
    """2 TP / (2 TP + FP + FN) over all reports and labels; NaN where there is no label at all."""
    both, extra, missed = counts.sum(axis=0)
    return 2 * both / (2 * both + extra + missed) if both + extra + missed else np.nan


def chexbert_counts(
    candidates: list[str], references: list[str], folder: Path, device: str = "cpu"
) -> tuple[np.ndarray, str]:
    """(N, 3) as `label_counts`, of CheXbert's 14 labels, where uncertain counts as positive."""
    (found, _), (true, _), setting = text_models.chexbert(candidates, references, folder, device)
    found = found & np.array([bool(text) for text in candidates])[:, None]
    return label_counts(found, true), f"micro-F1 of 14 labels, uncertain as positive, {setting}"


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
    """Every metric of METRICS. Both sides go through `clean_report` first.

    Args:
        candidates: N generated reports; "" is allowed and counted.
        references: N true reports, one each.
        models: local folders, by `bertscore`, `sentence`, `chexbert`, `radgraph`; nothing is
            downloaded.
    Raises:
        ValueError: strings for lists, lists for strings, other lengths, an empty reference, an
            unknown or unusable model.
    """
    models = models or {}
    texts = _checked(candidates, "candidates"), _checked(references, "references")
    if len(texts[0]) != len(texts[1]) or not texts[0]:
        raise ValueError(
            f"{len(texts[0])} candidates, {len(texts[1])} references; expected as many, and at"
            " least one."
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
    """A string taken for a list, or lists of words for strings, would give a number all the same,
    and a wrong one.
    """
    if isinstance(texts, str) or any(not isinstance(text, str) for text in texts):
        kind = (
            "a string"
            if isinstance(texts, str)
            else next(type(text).__name__ for text in texts if not isinstance(text, str))
        )
        raise ValueError(f"{name}: {kind}; expected a list of strings, one a report.")
    return [clean_report(text) for text in texts]
