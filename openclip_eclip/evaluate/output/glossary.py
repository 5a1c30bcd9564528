"""Every metric in one line; reports quote it, the README prints it (tests/docs/test_readme.py)."""

from __future__ import annotations

GLOSSARY = {
    "macro-F1": (
        "mean over the classes of F1 = 2 TP / (2 TP + FP + FN), every class weighing the same"
    ),
    "F1 of the positive class": (
        "F1 of one class alone; always saying 'positive' gives 2p / (1 + p) at prevalence p"
    ),
    "balanced accuracy": "mean over the classes of recall; chance is 1 / number of classes",
    "accuracy": "share of samples whose class is right",
    "AUROC": (
        "probability that a positive sample scores above a negative one (ties count half); chance"
        " is 0.5 at any prevalence"
    ),
    "precision": "share of the samples called a class that are of it",
    "recall": (
        "share of the samples of a class that are called so; for the positive class also"
        " sensitivity"
    ),
    "prevalence": "share of the samples that are of a class",
    "R@k": "share of the queries whose right answer is among the first k",
    "median rank": "the rank (from 1) of the right answer that half of the queries reach or beat",
    "mean rank": (
        "the mean over the queries of the rank (from 1) of the right answer; a few far ones weigh"
        " much"
    ),
    "MRR": "mean reciprocal rank: the mean over the queries of 1 / rank of the right answer",
    "P@k": "share of the first k answers that have the query's labels",
    "linear probe": (
        "logistic regression on frozen features: what a model knows of a class, by how few labels"
        " bring it out"
    ),
    "alignment (Eq. 2)": (
        "mean squared distance of an image to its nearest wrong text, less that to its own; falls"
        " with the number of texts"
    ),
    "uniformity (Eq. 3)": (
        "-log of the mean of exp(-2 squared distance) over images and texts of other images; "
        "rises with the modality gap, at most 8"
    ),
    "Wang-Isola alignment": (
        "mean squared distance of an image to its own text; 0 where they coincide"
    ),
    "Wang-Isola uniformity": (
        "log of the mean of exp(-2 squared distance) over pairs in one cloud; random directions: -4"
    ),
    "modality gap": (
        "length of the difference between the mean image and the mean text feature, from 0 to 2"
    ),
    "centred": (
        "after each modality has lost its mean and every feature has length 1 again, so that no gap"
        " is left"
    ),
    "NMI": (
        "normalised mutual information of clusters and groups, 0 to 1; rises with the number of"
        " clusters even by chance"
    ),
    "ARI": "adjusted Rand index of clusters and groups: 1 where they are the same, 0 by chance",
    "silhouette": (
        "how much nearer a point is to its own cluster than to the next, -1 to 1, mean over the"
        " points"
    ),
    "Calinski-Harabasz": (
        "variance between clusters over variance within, each by its degrees of freedom; higher is"
        " tighter"
    ),
    "ties": (
        "equal scores: optimistic puts the right answer first among them, pessimistic last,"
        " expected averages over their orders"
    ),
    "cos(v, v^E)": (
        "cosine of an image's feature with and without its heatmap; 1: the heatmap changes nothing"
    ),
    "pointing game": (
        "share of images whose map has its maximum inside the marked region (half of the heatmap's"
        " maximum and more)"
    ),
    "NSS": (
        "normalised scanpath saliency: the map in standard deviations, averaged where experts"
        " looked; chance is 0"
    ),
    "AUC-Judd": "AUROC of the map's values, marked against unmarked pixels; chance is 0.5",
    "IoU": (
        "overlap of the marked region with as many highest pixels of the map, shared area over"
        " joint area"
    ),
    "BLEU-2": (
        "common words and word pairs of two reports, averaged over the reports; 1 for equal ones, 0"
        " without a common pair"
    ),
    "BLEU-4 (corpus)": (
        "common sequences of 1 to 4 words, counted over all reports together, with a penalty for"
        " short ones"
    ),
    "ROUGE-L": (
        "F1 of the longest sequence of words, gaps allowed, that both reports have, averaged over"
        " the reports"
    ),
    "label F1 (dictionary)": (
        "micro-F1 of the findings that a word list sees in both reports: a rule of thumb"
    ),
    "BERTScore recall": (
        "how well each word of the true report is met by the nearest word vector of the written"
        " one; rarely below .5"
    ),
    "S_emb": (
        "cosine of two sentence vectors, averaged over the reports; reports about anything resemble"
        " one another, so .6 is easily had"
    ),
    "CB_emb": (
        "cosine of the vectors in which CheXbert's labeller reads two reports, averaged over the"
        " reports"
    ),
    "CheXbert-F1": "micro-F1 of CheXbert's 14 labels of the two reports, uncertain as positive",
    "RadGraph-F1": (
        "overlap of the findings and their relations that RadGraph reads in the two reports,"
        " averaged over the reports"
    ),
    "copy and random": (
        "floors: the nearest report unchanged shows what retrieval alone is worth, any report what"
        " knowing nothing is"
    ),
    "95 % interval": (
        "of the mean over seeds: Student's t for the spread between seeds, a bootstrap for that"
        " between images (of whole patients where known); one seed: images alone"
    ),
    "p": (
        "two-sided, of the same construction as the interval: below 0.05 where the 95 % interval"
        " leaves 0 out, and nowhere else"
    ),
    "Holm": "p adjusted so that the chance of any false alarm among all classes stays below alpha",
    "needed sizes": (
        "seeds or images at which the interval leaves 0 out with 80 % power, for a true difference"
        " of that size"
    ),
    "power law": (
        "error = a + b x^-c: a is what more data does not mend, c how fast it falls; fitted by"
        " least squares"
    ),
}
