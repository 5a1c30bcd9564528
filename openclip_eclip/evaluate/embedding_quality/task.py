"""Task embedding-quality: alignment, uniformity, modality gap, cosines, clusters and a projection.

Cosines are measured within and between groups of images.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from ...config import UserError
from ...data.images.options import read_options
from ...data.tables.missing_text import is_missing
from ...json_text import counted
from ...metrics import embedding
from ...subcommands import seed
from ..inputs.eval_set import EvalSet, read_eval_set, with_reports
from ..inputs.features import encode_images, encode_texts, first_rank_only
from ..options import add_model_arguments, add_output_argument, read_encode_options, read_encoder
from ..output.result import Result, Table
from .figures import clouds_figure, cosine_figure

PAIRS = 1000
SEVERAL = "|"  # separates the groups of one image, in tables of `prepare`
# {metric: (function of image and text features, each (N, D), which direction is better)}
FORMS = {
    "alignment (Eq. 2)": (embedding.alignment, "higher"),
    "uniformity (Eq. 3)": (embedding.uniformity, "higher"),
    "Wang-Isola alignment": (embedding.wang_isola_alignment, "lower"),
    "Wang-Isola uniformity, images": (
        lambda images, texts: embedding.wang_isola_uniformity(images),
        "lower",
    ),
    "Wang-Isola uniformity, texts": (
        lambda images, texts: embedding.wang_isola_uniformity(texts),
        "lower",
    ),
    "Wang-Isola uniformity, both": (
        lambda images, texts: embedding.wang_isola_uniformity(np.concatenate([images, texts])),
        "lower",
    ),
    "modality gap": (embedding.modality_gap, "lower"),
}
TERMS = [
    "alignment (Eq. 2)",
    "uniformity (Eq. 3)",
    "Wang-Isola alignment",
    "Wang-Isola uniformity",
    "modality gap",
    "centred",
]
GROUP_TERMS = ["NMI", "ARI", "silhouette", "Calinski-Harabasz"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model_arguments(parser)
    parser.add_argument(
        "--data",
        required=True,
        help="data set: .csv, .tsv or .tar shards; column 'title' holds the text of each image",
    )
    parser.add_argument(
        "--group-column",
        metavar="COLUMN",
        help=(
            "column with the groups for cosines, clusters and colours; rows without a group or with"
            f" several, separated by {SEVERAL}, do not count there (default: label, if there is"
            " one)"
        ),
    )
    parser.add_argument(
        "--pairs",
        type=int,
        metavar="N",
        help=(
            "number of pairs in a draw; Eq. 2 depends on it, so compare values of the same N only"
            f" (default: {PAIRS}, or all pairs if there are fewer)"
        ),
    )
    parser.add_argument(
        "--draws",
        type=int,
        default=10,
        help="number of draws of N pairs without replacement (default: %(default)s)",
    )
    parser.add_argument(
        "--cluster-seeds",
        type=int,
        default=5,
        metavar="COUNT",
        help="number of k-means runs (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        default=0,
        help="random seed of draws, clusters and the projection (default: %(default)s)",
    )
    add_output_argument(parser)


def run(args: argparse.Namespace) -> Result:
    data = with_reports(
        read_eval_set(args.data, args.on_bad_sample == "skip", read_options(args)), "title"
    )
    read_groups(data, args.group_column)  # reports errors before the long encoding
    for flag in ("draws", "cluster_seeds"):
        if getattr(args, flag) < 1:
            raise UserError(
                f"--{flag.replace('_', '-')} {getattr(args, flag)}: expected at least 1."
            )
    options, encoder = read_encode_options(args), read_encoder(args)
    features, data = encode_images(encoder, data, options)
    texts = data.column("title")
    images, text_features = (
        features.unit.astype(np.float64),
        encode_texts(encoder, texts, options).unit.astype(np.float64),
    )
    first_rank_only()
    pairs = args.pairs or min(PAIRS, len(data))
    if not 2 <= pairs <= len(data):
        raise UserError(
            f"--pairs {pairs}: the set has {len(data)} pairs; expected 2 to {len(data)}."
        )
    draws = args.draws if pairs < len(data) else 1
    measured = measure_pairs(images, text_features, pairs, draws, args.seed)
    settings = {
        **encoder.facts,
        "data": args.data,
        "pairs": pairs,
        "draws": draws,
        "seed": args.seed,
        "group_column": args.group_column,
    }
    result = Result(
        "embedding-quality",
        settings,
        {"pairs": measured, "excluded": data.excluded},
        [_pair_table(measured, pairs, draws)],
        notes=_notes(measured, data, texts, pairs),
        terms=list(TERMS),
    )
    names, member = read_groups(data, args.group_column)
    kind, result.figures["clouds"] = clouds_figure(images, text_features, names, member, args.seed)
    result.captions["clouds"] = (
        f"{kind} of the features. Left: images by group. Right: images and texts together; the"
        " distance between the two clouds is the modality gap."
    )
    if names:
        add_groups(
            result,
            images[member >= 0],
            names,
            member[member >= 0],
            [args.seed + i for i in range(args.cluster_seeds)],
        )
        result.notes.append(
            f"Groups: {int((member >= 0).sum())} of {len(member)} images are in exactly one group;"
            " only these count for cosines and clusters."
        )
    return result


def read_groups(data: EvalSet, column: str | None) -> tuple[list[str], np.ndarray]:
    """Names of the groups, and the group of each row (N,) int64: -1 for none or several.

    UserError: no such column, or no row in exactly one group.
    """
    if column is None and "label" not in data.table:
        return [], np.full(len(data), -1)
    cells = data.column(column or "label")
    classes = data.recipe.get("classes", []) if (column or "label") == "label" else []
    cells = [
        classes[int(cell)] if cell.isdigit() and int(cell) < len(classes) else cell
        for cell in cells
    ]
    has_one_group = [not (is_missing(cell) or SEVERAL in cell) for cell in cells]
    present = {cell for cell, is_one in zip(cells, has_one_group, strict=True) if is_one}
    if not present:
        raise UserError(
            f"{data.path}, column {column or 'label'!r}: no row is in exactly one group; name"
            " another with --group-column."
        )
    names = [name for name in classes if name in present] + sorted(present - set(classes))
    member = [
        names.index(cell) if is_one else -1
        for cell, is_one in zip(cells, has_one_group, strict=True)
    ]
    return names, np.array(member, dtype=np.int64)


def measure_pairs(
    images: np.ndarray, texts: np.ndarray, pairs: int, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    """{metric: {"raw": values, "centred": values, "better": direction}}, a value for each draw.

    `images`, `texts` (N, D). Each draw is centred by its own means.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, dict[str, Any]] = {
        name: {"raw": [], "centred": [], "better": better} for name, (_, better) in FORMS.items()
    }
    for _ in range(draws):
        rows = rng.permutation(len(images))[:pairs]
        clouds = {
            "raw": (images[rows], texts[rows]),
            "centred": (embedding.centre(images[rows]), embedding.centre(texts[rows])),
        }
        for name, (form, _) in FORMS.items():
            for kind, cloud in clouds.items():
                values[name][kind].append(form(*cloud))
    return values


def add_groups(
    result: Result, images: np.ndarray, names: list[str], member: np.ndarray, seeds: list[int]
) -> None:
    """Add cosines within and between groups, and clusters, to `result`.

    `images` (N, D) unit features, `member` (N,) the group of each.
    """
    counts, mean, deviation = embedding.cosine_histogram(images, member)
    sizes = np.bincount(member, minlength=len(names))
    within = np.eye(len(names), dtype=bool)
    rows = [[name, int(sizes[k]), *mean[k]] for k, name in enumerate(names)]
    result.tables.append(
        Table(
            "Mean cosine of two images, by group",
            ["group", "images", *names],
            rows,
            "Pairs of different images. On the diagonal both are of the same group. A dash: there"
            " is no such pair.",
        )
    )
    result.figures["cosines"] = cosine_figure(
        counts[within].sum(axis=0), counts[np.triu(~within)].sum(axis=0), names, mean
    )
    result.captions["cosines"] = (
        "Cosines of all pairs of images, within a group and between two groups, and their means"
        " for each pair of groups."
    )
    result.values["groups"] = {
        "names": names,
        "images": sizes,
        "mean_cosine": mean,
        "deviation_of_cosine": deviation,
        "histogram": counts,
        "bins": [-1, 1, counts.shape[2]],
    }
    different = len(np.unique(images, axis=0))
    if len(names) < 2 or different <= len(names):
        result.notes.append(
            f"No clusters: {different} different images in {len(names)} groups; expected two groups"
            " or more, and more images than groups."
        )
        return
    scores = embedding.clustering(images, member, seeds)
    result.values["clusters"] = {"seeds": seeds, **scores}
    result.tables.append(
        Table(
            "k-means clusters of the images",
            ["metric", "mean", "sd"],
            [[name, values.mean(), _deviation(values)] for name, values in scores.items()],
            f"k = {len(names)}, n_init 20 on unit vectors; mean and standard deviation over"
            f" {len(seeds)} seeds. NMI and ARI against the groups; silhouette and Calinski-Harabasz"
            " of the clusters themselves, Euclidean.",
        )
    )
    result.terms += GROUP_TERMS


def _pair_table(measured: dict[str, dict[str, Any]], pairs: int, draws: int) -> Table:
    rows = [
        [
            name,
            values["better"],
            *(
                cell
                for kind in ("raw", "centred")
                for cell in (np.mean(values[kind]), _deviation(np.array(values[kind])))
            ),
        ]
        for name, values in measured.items()
    ]
    over = (
        f"mean and standard deviation over {draws} draws of {pairs}"
        if draws > 1
        else f"of all {pairs}"
    )
    return Table(
        "Images and their texts",
        ["metric", "better", "as it is", "sd", "centred", "sd (centred)"],
        rows,
        f"Pairs: {over}. Centred: the mean of each modality is subtracted, then features are scaled"
        " to length 1.",
    )


def _deviation(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


def _notes(
    measured: dict[str, dict[str, Any]], data: EvalSet, texts: list[str], pairs: int
) -> list[str]:
    raw, centred = (
        float(np.mean(measured["uniformity (Eq. 3)"][kind])) for kind in ("raw", "centred")
    )
    gap = float(np.mean(measured["modality gap"]["raw"]))
    change = f"{abs(raw - centred):.2f} {'lower' if centred < raw else 'higher'}"
    repeated = len(texts) - len(set(texts))
    notes = [
        "Eq. 3 takes distances between images and texts. So it rises, up to 8, when the two clouds"
        " move apart, although retrieval does not improve. Here the gap is"
        f" {gap:.2f} and Eq. 3 is {raw:.2f}; with both clouds centred it is {centred:.2f},"
        f" {change}. Read it beside Wang and Isola's uniformity within each cloud."
    ]
    if pairs < PAIRS:
        notes.append(
            f"n = {pairs} pairs, fewer than {PAIRS}. Eq. 2 is higher at a smaller n; compare values"
            " of the same n only."
        )
    if repeated:
        notes.append(
            f"{repeated} of {len(texts)} texts repeat an earlier one. Eq. 2 and Eq. 3 count an"
            " equal text of another image as a wrong text."
        )
    if data.excluded:
        notes.append(f"{counted(len(data.excluded), 'image')} left out, named in result.json.")
    return notes
