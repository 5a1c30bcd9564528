"""A line on each metric, for reports and for docs/evaluate/metrics.md (scripts/build_docs.py)."""

from __future__ import annotations

GLOSSARY = {
    "macro-F1": (
        "mean over the classes of F1 = 2 TP / (2 TP + FP + FN); every class has the same weight"
    ),
    "F1 of the positive class": (
        "F1 of one class alone; the answer 'positive' for all gives 2p / (1 + p) at prevalence p"
    ),
    "balanced accuracy": "mean over the classes of recall; chance is 1 / number of classes",
    "accuracy": "share of samples whose class is right",
    "AUROC": (
        "probability that a positive sample scores above a negative one (ties count half); chance"
        " is 0.5 at any prevalence"
    ),
    "precision": "share of the samples predicted as a class that are of the class",
    "recall": (
        "share of the samples of a class that are predicted as the class; for the positive class"
        " also called sensitivity"
    ),
    "prevalence": "share of the samples that are of a class",
    "R@k": "share of the queries whose right answer is among the first k",
    "median rank": "median over the queries of the rank (from 1) of the right answer",
    "mean rank": (
        "mean over the queries of the rank (from 1) of the right answer; a few high ranks can"
        " dominate it"
    ),
    "MRR": "mean reciprocal rank: the mean over the queries of 1 / rank of the right answer",
    "P@k": "share of the first k answers that have the query's labels",
    "linear probe": (
        "logistic regression on frozen features: shows how well the features separate a class, by"
        " the number of labels"
    ),
    "alignment (Eq. 2)": (
        "mean squared distance of an image to its nearest wrong text, minus that to its own text;"
        " it falls with the number of texts"
    ),
    "uniformity (Eq. 3)": (
        "-log of the mean of exp(-2 squared distance) over images and texts of other images; it"
        " rises with the modality gap, to at most 8"
    ),
    "Wang-Isola alignment": (
        "mean squared distance of an image to its own text; 0 where they coincide"
    ),
    "Wang-Isola uniformity": (
        "log of the mean of exp(-2 squared distance) over pairs in one cloud; random directions"
        " have -4"
    ),
    "modality gap": (
        "length of the difference between the mean image and the mean text feature, from 0 to 2"
    ),
    "centred": (
        "with the mean of each modality subtracted and every feature scaled to length 1, so that"
        " there is no gap"
    ),
    "NMI": (
        "normalised mutual information of clusters and groups, 0 to 1; it rises with the number of"
        " clusters even by chance"
    ),
    "ARI": "adjusted Rand index of clusters and groups: 1 where they are the same, 0 by chance",
    "silhouette": (
        "how much nearer a point is to its own cluster than to the next, -1 to 1, mean over the"
        " points"
    ),
    "Calinski-Harabasz": (
        "variance between clusters over variance within them, each divided by its degrees of"
        " freedom; higher means tighter clusters"
    ),
    "ties": (
        "equal scores: optimistic ranks the right answer first among them, pessimistic last,"
        " expected averages over all orders"
    ),
    "cos(v, v^E)": (
        "cosine of an image's feature with and without its heatmap; 1: the heatmap changes nothing"
    ),
    "pointing game": (
        "share of images whose map has its maximum in the marked region (at least half of the"
        " heatmap's maximum)"
    ),
    "NSS": (
        "normalised scanpath saliency: the map in standard deviations, averaged with the heatmap as"
        " weight; chance is 0"
    ),
    "AUC-Judd": "AUROC of the map's values, marked against unmarked pixels; chance is 0.5",
    "IoU": (
        "overlap of the marked region with as many of the highest pixels of the map: shared area"
        " over joint area"
    ),
    "CNR": (
        "contrast-to-noise ratio of a map: |mean inside - mean outside the region| over the root of"
        " the sum of both variances; signed: negative where the map avoids the region"
    ),
    "mIoU": (
        "overlap of the region and the part of the map, scaled to [0, 1], above a threshold; mean"
        " over the thresholds 0.1 to 0.5"
    ),
    "Dice": "twice the shared area over the sum of both areas, at the thresholds of mIoU",
    "AUPRO": (
        "area under the share of each part of the region that is found, up to a false-positive rate"
        " of 0.3, divided by 0.3; a constant map has 0.15"
    ),
    "CC": "Pearson's correlation of the map with the map of gaze; chance is 0",
    "KL": (
        "Kullback-Leibler divergence of the map from the map of gaze, both scaled to sum to 1;"
        " lower is better, 0 for equal maps"
    ),
    "BLEU-2": (
        "common words and word pairs of two reports, averaged over the reports; 1 for equal"
        " reports, 0 without a common pair"
    ),
    "BLEU-4 (corpus)": (
        "common sequences of 1 to 4 words, counted over all reports together, with a penalty for"
        " short reports"
    ),
    "ROUGE-L": (
        "F1 of the longest common sequence of words, gaps allowed, of two reports, averaged over"
        " the reports"
    ),
    "label F1 (dictionary)": (
        "micro-F1 of the findings that a dictionary of phrases detects in two reports; approximate"
    ),
    "BERTScore recall": (
        "mean cosine of each word vector of the true report with the nearest one of the written"
        " report; rarely below 0.5"
    ),
    "S_emb": (
        "cosine of two sentence vectors, averaged over the reports; unrelated reports can reach 0.6"
    ),
    "CB_emb": (
        "cosine of the vectors of CheXbert's labeller for two reports, averaged over the reports"
    ),
    "CheXbert-F1": "micro-F1 of CheXbert's 14 labels of two reports; uncertain counts as positive",
    "RadGraph-F1": (
        "overlap of the findings and relations that RadGraph extracts from two reports, averaged"
        " over the reports"
    ),
    "copy and random": (
        "baselines: the nearest report unchanged is the score of retrieval alone, a random report"
        " is the floor"
    ),
    "95 % interval": (
        "interval of the mean over seeds: Student's t for the spread between seeds, a bootstrap for"
        " that between images (of whole patients if known); with one seed between images only"
    ),
    "p": (
        "two-sided p-value of the same construction as the interval: below 0.05 exactly where the"
        " 95 % interval excludes 0"
    ),
    "Holm": "p adjusted so that the chance of any false alarm among all classes stays below alpha",
    "needed sizes": (
        "numbers of seeds or images at which the interval excludes 0 with 80 % power, for a true"
        " difference of that size"
    ),
    "power law": (
        "error = a + b x^-c: a is the error that remains with any amount of data, c how fast the"
        " rest falls; fitted by least squares"
    ),
}
