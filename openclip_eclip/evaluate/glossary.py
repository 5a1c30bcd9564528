"""Every metric in one line; reports quote it, the README prints it (tests/test_readme.py)."""
from __future__ import annotations

GLOSSARY = {
    "macro-F1": "mean over the classes of F1 = 2 TP / (2 TP + FP + FN), every class weighing the same",
    "F1 of the positive class": "F1 of one class alone; always saying 'positive' gives 2p / (1 + p) at prevalence p",
    "balanced accuracy": "mean over the classes of recall; chance is 1 / number of classes",
    "accuracy": "share of samples whose class is right",
    "AUROC": "probability that a positive sample scores above a negative one (ties count half); chance is 0.5 at any prevalence",
    "prevalence": "share of the samples that are of a class",
    "R@k": "share of the queries whose right answer is among the first k",
    "median rank": "the rank (from 1) of the right answer that half of the queries reach or beat",
    "ties": "equal scores: optimistic puts the right answer first among them, pessimistic last, expected averages over their orders",
    "95 % interval": "percentiles 2.5 and 97.5 of 1000 draws with replacement of the images (of whole patients where known) and of the seeds",
    "bootstrap p": "two-sided, 2 (1 + draws on the rarer side of 0) / (draws + 1); small where few draws change the sign of the difference",
    "Holm": "p adjusted so that the chance of any false alarm among all classes stays below alpha",
    "needed sizes": "seeds or images at which a difference is seen with 80 % power at alpha 0.05, by the normal approximation",
    "power law": "error = a + b x^-c: a is what more data does not mend, c how fast it falls; fitted by least squares",
}
