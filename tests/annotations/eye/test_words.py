"""Transcripts with times, of each program, and broken ones."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from openclip_eclip.annotations.eye import words
from openclip_eclip.annotations.record import Word
from openclip_eclip.config import UserError

WORDS = (Word("Clear", 0.5, 0.9), Word('lungs "both".', 1.0, 1.75))
LONG = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 3
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "TextTier"
        name = "marks"
        xmin = 0
        xmax = 3
        points: size = 1
        points [1]:
            number = 0.7
            mark = "click"
    item [2]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = "k"
        intervals [2]:
            xmin = 0.5
            xmax = 0.9
            text = "l"
        intervals [3]:
            xmin = 1
            xmax = 1.2
            text = "m"
    item [3]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 3
        intervals: size = 3
        intervals [1]:
            xmin = 0
            xmax = 0.5
            text = ""
        intervals [2]:
            xmin = 0.5
            xmax = 0.9
            text = "Clear"
        intervals [3]:
            xmin = 1
            xmax = 1.75
            text = "lungs ""both""."
"""
SHORT = """File type = "ooTextFile"
Object class = "TextGrid"

0
3
<exists>
1
"IntervalTier"
"words"
0
3
2
0.5
0.9
"Clear"
1
1.75
"lungs ""both""."
"""
EAF = """<?xml version="1.0" encoding="UTF-8"?>
<ANNOTATION_DOCUMENT><TIME_ORDER>
<TIME_SLOT TIME_SLOT_ID="ts1" TIME_VALUE="500"/><TIME_SLOT TIME_SLOT_ID="ts2" TIME_VALUE="900"/>
<TIME_SLOT TIME_SLOT_ID="ts3" TIME_VALUE="1000"/><TIME_SLOT TIME_SLOT_ID="ts4" TIME_VALUE="1750"/>
</TIME_ORDER>
<TIER TIER_ID="notes"><ANNOTATION><REF_ANNOTATION ANNOTATION_ID="r1" ANNOTATION_REF="a1">
<ANNOTATION_VALUE>a note</ANNOTATION_VALUE></REF_ANNOTATION></ANNOTATION></TIER>
<TIER TIER_ID="speech">
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a2" TIME_SLOT_REF1="ts3" TIME_SLOT_REF2="ts4">
<ANNOTATION_VALUE>lungs "both".</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
<ANNOTATION><ALIGNABLE_ANNOTATION ANNOTATION_ID="a1" TIME_SLOT_REF1="ts1" TIME_SLOT_REF2="ts2">
<ANNOTATION_VALUE>Clear</ANNOTATION_VALUE></ALIGNABLE_ANNOTATION></ANNOTATION>
</TIER></ANNOTATION_DOCUMENT>
"""


def entries(text: str, start: str, end: str) -> list[dict]:
    return [{text: f" {word.text}", start: word.start, end: word.end} for word in WORDS]


JSONS = {
    "words": {"text": "x", "segments": [{"text": "s", "words": entries("word", "start", "end")}]},
    "segments": {"segments": entries("text", "start", "end")},
    "cpp": {
        "transcription": [
            {"text": one.text, "offsets": {"from": one.start * 1000, "to": one.end * 1000}}
            for one in WORDS
        ]
    },
    "chunks": {"chunks": [{"text": w.text, "timestamp": [w.start, w.end]} for w in WORDS]},
    "egd": {"time_stamped_text": entries("phrase", "begin_time", "end_time")},
    "narrative": {"timed_caption": entries("utterance", "start_time", "end_time")},
}


def read_words(path: Path, tier: str | None = None) -> dict[str, tuple[Word, ...]]:
    """{image: its words}"""
    return {name: one.words for name, one in words.read_words(path, tier).items()}


@pytest.mark.parametrize("form", JSONS)
def test_json(tmp_path: Path, form: str) -> None:
    path = tmp_path / "img1.json"
    path.write_text(json.dumps(JSONS[form]))
    assert read_words(path) == {"img1": WORDS}
    path = tmp_path / "img2" / "transcript.json"
    path.parent.mkdir()
    path.write_text(json.dumps(JSONS[form]))
    assert read_words(tmp_path) == {"img1": WORDS, "img2": WORDS}


@pytest.mark.parametrize("text", [LONG, SHORT])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-8-sig"])
def test_textgrid(tmp_path: Path, text: str, encoding: str) -> None:
    path = tmp_path / "img1.TextGrid"
    path.write_text(text, encoding=encoding)
    assert read_words(path) == {"img1": WORDS}
    if text is LONG:
        assert [word.text for word in read_words(path, "phones")["img1"]] == ["k", "l", "m"]


def test_elan(tmp_path: Path) -> None:
    path = tmp_path / "img1.eaf"
    path.write_text(EAF)
    assert read_words(path) == {"img1": WORDS}
    assert read_words(path, "notes") == {"img1": (Word("a note", 0.5, 0.9),)}


def test_tables(tmp_path: Path) -> None:
    folder = tmp_path / "P101R000001"
    folder.mkdir()
    (folder / "timestamps_transcription.csv").write_text(
        'word,timestamp_start_word,timestamp_end_word\nClear,0.5,0.9\n"lungs ""both"".",1,1.75\n'
    )
    (folder / "fixations.csv").write_text("x,y,duration\n1,2,3\n")
    assert read_words(tmp_path) == {"P101R000001": WORDS}
    path = tmp_path / "all.csv"
    path.write_text("image,word,start,end\na,Clear,0.5,0.9\nb,x,,\n")
    got = read_words(path)
    assert got["a"] == WORDS[:1] and math.isnan(got["b"][0].start)


def test_localized_narratives(tmp_path: Path) -> None:
    path = tmp_path / "coco_val.jsonl"
    one = {"image_id": 7, "timed_caption": JSONS["narrative"]["timed_caption"]}
    other = {"image_id": "8", "timed_caption": one["timed_caption"][:1]}
    path.write_text("\n".join(map(json.dumps, (one, other, {**one, "timed_caption": []}))))
    assert read_words(path) == {"7": WORDS, "8": WORDS[:1]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "{", "a.json: not JSON"),
        ("a.json", "{}", "segments is 'None'; expected a list"),
        ("a.json", '{"segments": [{"text": "x", "start": "1", "end": 2}]}', "segment 1: start is"),
        ("a.json", '{"segments": [{"start": 1}]}', "segment 1.*expected a text, a start"),
        ("a.json", '{"segments": [7]}', "segment 1: '7'"),
        ("a.json", '{"segments": [{"text": "x", "start": 3, "end": 2}]}', "ends at 2 before"),
        ("a.TextGrid", LONG[:800], "line 40:.*the end of the file"),
        ("a.TextGrid", LONG.replace("size = 3", "size = x", 1), "expected a TextGrid"),
        ("a.TextGrid", "hello", "the end of the file"),
        ("a.eaf", EAF[:200], "broken XML"),
        ("a.eaf", '<!DOCTYPE a [<!ENTITY b "c">]><a/>', "document type or entity"),
        ("a.eaf", EAF.replace('"500"', '"0.5"'), "TIME_VALUE '0.5' of slot ts1"),
        ("a.eaf", "<a/>", "no tier with words"),
        ("a.jsonl", '{"image_id": 3}', "line 1: keys"),
        ("a.csv", "word,begin\na,1\n", "expected a text"),
        ("a.csv", "word,start,end\na,one,2\n", "row 1, column 'start': 'one'"),
        ("a.txt", "words", "no known transcript"),
    ],
)
def test_errors(tmp_path: Path, name: str, text: str, message: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_words(path)


def test_two_transcripts_of_one_image_and_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no transcript"):
        read_words(tmp_path)
    (tmp_path / "a.json").write_text(json.dumps(JSONS["segments"]))
    (tmp_path / "a.TextGrid").write_text(LONG)
    with pytest.raises(UserError, match="once more, after"):
        read_words(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        read_words(tmp_path / "none")
