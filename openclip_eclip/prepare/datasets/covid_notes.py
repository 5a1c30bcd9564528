"""Cleans the clinical notes of covid-chestxray to what speaks of the image.

A note tells the story of a patient, and somewhere in it what the X-ray shows. A sentence is kept if
it has a word of chest images, and is neither about another examination nor about the patient alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

SPACE = re.compile(r"[\s\ufffd]+")
# "Imaging Notes:" to the next title, where a note has such sections
SECTION = re.compile(
    r"imaging notes:\s*(.*?)(?=(?:case )?discussion:|presentation:|impression:|$)", re.I | re.S
)
TITLE = re.compile(
    r"^(?:presentation|imaging notes?|(?:case )?discussion|impression)\s*:[\s.]*", re.I
)
# a full stop before a capital; not after an initial or one of these shortened words
END = re.compile(r"(?<=[.!?])(?<!\b[A-Z]\.)(?<!Fig\.)(?<!Dr\.)(?<!vs\.)\s+(?=[A-Z(\[\"'])")
IMAGE = re.compile(
    r"radiograph|x[- ]?rays?\b|\bcxr\b|\bfilms?\b|radiolog|\blungs?\b|\blungs|pulmonary (?:o?edema|"
    r"infiltrat|opaci)|opaci|consolidat|infiltrat|ground[- ]glass|\bggos?\b|effusion|"
    r"pneumothora|atelecta|nodul|\bmass(?:es)?\b|reticul|interstiti|air[- ]?space|alveolar|"
    r"bronchogram|hil(?:ar|um)\b|cardio?(?:thoracic|mediastin|megaly)|mediastin|diaphragm|"
    r"costophrenic|pleura|\blobes?\b|\blobar\b|\bzones?\b|\bbasal\b|\bbasilar\b|perihilar|"
    r"cavit|collapse|fibro|\bcarina\b|normal appearances|heart (?:size|shadow|border)",
    re.I,
)
OTHER = re.compile(
    r"\bct\b|\bhrct\b|tomograph|ultraso|echocardiogra|\bmri\b|auscultat|crackle|crepitation|"
    r"wheez|rales|breath sounds|physical exam|biopsy|autops|swab|\bpcr\b|spirometr|transplant",
    re.I,
)
MODALITY = re.compile(r"radiograph|x[- ]?rays?\b|\bcxr\b|\bfilms?\b", re.I)
PATIENT = re.compile(
    r"\b(?:died|discharged|admitted to|history of|smoker|was (?:treated|given))", re.I
)


class Note(NamedTuple):
    text: str  # in one line; "" for a blank note
    whole: bool  # whether no sentence speaks of the image: the text is the whole note


def clean_note(note: str) -> Note:
    """The sentences of a note that speak of the image.

    If there are none: its section on the image, or the whole note.
    """
    line = SPACE.sub(" ", note).replace("..", ".").replace(" .", ".").strip(" .")
    if not re.search(r"\w", line):
        return Note("", False)
    section = SECTION.search(line)
    sentences = split_sentences(section[1] if section else line)
    kept = [sentence for sentence in sentences if speaks_of_image(sentence)]
    whole = " ".join(sentences) if section and sentences else close(line)
    return Note(" ".join(kept) or whole, not kept)


def split_sentences(text: str) -> list[str]:
    """Sentences, each with its full stop and without the title of a section."""
    parts = (TITLE.sub("", part.strip()) for part in END.split(text))
    return [close(part) for part in parts if re.search(r"\w", part)]


def close(sentence: str) -> str:
    """The sentence with a full stop at its end."""
    sentence = sentence.strip()
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."


def speaks_of_image(sentence: str) -> bool:
    """Whether a sentence says what the X-ray shows."""
    if not IMAGE.search(sentence):
        return False
    if OTHER.search(sentence) and not MODALITY.search(sentence):
        return False
    # "the patient died after the last x-ray" has a word of images, and no finding
    return not PATIENT.search(sentence) or bool(IMAGE.search(MODALITY.sub("", sentence)))
