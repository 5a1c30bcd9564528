"""The generated blocks of README.md: its numbers, from committed results and pinned versions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
CLEAN = "600 images, 15 %"  # the setting of the alignment benchmark that has placebos
PACKAGES = ("torch", "open_clip_torch", "timm", "numpy", "pandas")


def results(name: str) -> Any:
    """A committed file of results, by its name in docs/results."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def percent(value: float) -> str:
    return f"{100 * value:.0f} %"


def change(difference: dict[str, float]) -> str:
    """A difference and its 95 % interval; what rounds to zero has no sign."""
    value, *ends = (round(difference[name], 2) + 0.0 for name in ("value", "low", "high"))
    low, high = (f"{end:.2f}" for end in ends)
    sign = "+" if value > 0 else ""
    return f"{sign}{value:.2f} [{low}, {high}]".replace("-", "−")


def number() -> str:
    """The sentence of the first screen: attention with and without the heatmaps."""
    methods = results("align.json")["settings"][CLEAN]
    shares = [
        percent(methods[name]["pointing"]["value"])
        for name in ("eclip-plus", "CLIP", "eclip-plus, maps of other images")
    ]
    return (
        "On 600 synthetic chest X-rays, 15 % of them annotated, our recipe eclip-plus attends"
        f" inside the marked region\nin **{shares[0]}** of test images. CLIP does in {shares[1]};"
        f" a placebo, eclip-plus with the maps of other images, in {shares[2]} (five seeds).\n"
    )


def helps() -> str:
    """What eclip-plus changes against CLIP, by the reader's case; means over five seeds."""
    settings = results("align.json")["settings"]
    towers = results("stamps_align.json")["summary"]
    rows = []
    for case, name in (
        ("300 synthetic images, 5 % annotated", "300 images, 5 %"),
        ("600 synthetic images, 15 % annotated", CLEAN),
        ("the same, gaze shifted by 8 % of the image", f"{CLEAN}, gaze shifted by 8 %"),
        ("2 000 synthetic images, 5 % annotated", "2000 images, 5 %"),
        ("2 000 synthetic images, 15 % annotated", "2000 images, 15 %"),
    ):
        clip, plus = settings[name]["CLIP"], settings[name]["eclip-plus"]
        if clip["machine"] != plus["machine"]:
            raise ValueError(f"{name}: CLIP and eclip-plus ran on different machines")
        scores = [change(plus[score]["difference"]) for score in ("macro-F1", "R@5")]
        shares = [percent(method["pointing"]["value"]) for method in (clip, plus)]
        rows.append([case, " → ".join(shares), *scores])
    for case, name in (
        ("354 cut-out pictures with masks, trained EfficientNet", "efficientnet-lite0"),
        ("the same, trained ViT-S/14", "vit-s14"),
    ):
        clip, plus = towers[name]["CLIP"], towers[name]["eclip-plus"]
        shares = [percent(method["scores"]["pointing"]["mean"] / 100) for method in (clip, plus)]
        recall = {key: value / 100 for key, value in plus["differences"]["R@5"].items()}
        rows.append([case, " → ".join(shares), "not measured", change(recall)])
    head = ["your case", "attends inside: CLIP → eclip-plus", "classes, macro-F1", "retrieval, R@5"]
    lines = [head, ["---"] * len(head), *rows]
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


def demo() -> str:
    """What the demo printed when docs/results/demo.png was made: `scripts/demo.sh | tee`."""
    return f"```text\n{(RESULTS / 'demo.txt').read_text(encoding='utf-8').strip()}\n```\n"


def pins(name: str) -> dict[str, str]:
    """The versions that a file in scripts/ pins, by package."""
    text = (ROOT / "scripts" / name).read_text(encoding="utf-8")
    return dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))


def versions() -> str:
    """Versions that work together, from the files that pin them."""
    tested, main = pins("constraints.txt"), pins("open-clip-main.txt")
    text = (ROOT / "scripts" / "open-clip-main.txt").read_text(encoding="utf-8")
    (commit,) = re.findall(r"^# commit (\w{7})\w{33}$", text, re.MULTILINE)
    main["open_clip_torch"] += f" ({commit})"
    lines = [["", "Python", *PACKAGES], ["---"] * (2 + len(PACKAGES))]
    for label, python, found in (
        ("tested", "3.11", tested),
        ("main", "3.11", tested | main),
        ("lowest", "3.10", pins("constraints-lowest.txt")),
    ):
        lines.append([label, python, *(found[package] for package in PACKAGES)])
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"


BLOCKS: dict[str, Callable[[], str]] = {
    "number": number,
    "demo": demo,
    "helps": helps,
    "versions": versions,
}
