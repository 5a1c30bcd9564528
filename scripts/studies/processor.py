"""Study of heatmap processors: which form can be the identity, and does it respond to the heatmap?

    OMP_NUM_THREADS=1 python scripts/studies/processor.py --out docs/results
    python scripts/studies/processor.py --out /tmp/study --quick  # a few steps of everything

It writes processor.md, .json and .png. See decision 0001.
Priming: each form is trained on Processor(I, 1) = I alone (Alg. 1, l. 14-17), with 64-pixel crops
of phantoms and photographs.
Response: a small eCLIP is trained by Algorithm 1 on phantoms. Then cos(v, v^E) is measured on
held-out images with the true heatmaps, with those of other images, and with ones. Its patches have
a quarter of the pixels, so widths are a quarter, too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
from matplotlib.figure import Figure
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from openclip_eclip import EClipConfig
from openclip_eclip.batching.curriculum import Curriculum, draw_gate
from openclip_eclip.batching.expert_batch import ExpertBatch
from openclip_eclip.config import AUTHORS_PROCESSOR, ProcessorConfig
from openclip_eclip.evaluate.output.result import markdown_table
from openclip_eclip.loss import EClipLoss
from openclip_eclip.phantom.generate import generate
from openclip_eclip.priming import reconstruction_errors
from openclip_eclip.processor import build_processor

SIDE = 64  # pixels, in the priming study
SMALL_CLIP = {
    "embed_dim": 128,
    "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 48, "vocab_size": 1024, "width": 128, "heads": 4, "layers": 2},
}


def initialise_as_torch(processor: nn.Module) -> None:
    """The initial weights of torch's MultiheadAttention and ConvTranspose2d.

    The authors' form consists of these modules.
    """
    # one Xavier draw for queries, keys and values together
    bound = (6 / (4 * processor.config.width)) ** 0.5
    for layer in (processor.query, processor.key_value):
        nn.init.uniform_(layer.weight, -bound, bound)
    for layer in (processor.query, processor.key_value, processor.attend_out):
        nn.init.zeros_(layer.bias)
    bound = processor.unpatchify.out_features**-0.5
    nn.init.uniform_(processor.unpatchify.weight, -bound, bound)


def push_away(processor: nn.Module) -> None:
    """Initial weights far from the identity: can priming reach it?"""
    nn.init.normal_(processor.unpatchify.weight, std=0.3)


class Form(NamedTuple):
    config: ProcessorConfig
    start: Callable[[nn.Module], None] | None = None  # changes the initial weights


POSITIONS = ProcessorConfig(residual="none", zero_init=False, positions="sincos")
FORMS = {
    "authors' form": Form(AUTHORS_PROCESSOR),
    "authors' form, torch's own initial weights": Form(AUTHORS_PROCESSOR, initialise_as_torch),
    "width 256, no residual, positions": Form(POSITIONS),
    "width 768, no residual": Form(ProcessorConfig(width=768, residual="none", zero_init=False)),
    "width 768, no residual, positions": Form(dataclasses.replace(POSITIONS, width=768)),
    "residual I, zero start": Form(ProcessorConfig(residual="image")),
    "residual I": Form(ProcessorConfig(residual="image", zero_init=False)),
    "residual E*I, zero start (default)": Form(ProcessorConfig()),
    "residual E*I": Form(ProcessorConfig(zero_init=False)),
    "residual E*I, output layer pushed away": Form(ProcessorConfig(), push_away),
    "residual E*I, zero start, width 768": Form(ProcessorConfig(width=768)),
    "cnn (ablation), zero start": Form(ProcessorConfig(kind="cnn")),
}
RESPONSE = ("authors' form", "residual I, zero start", "residual E*I, zero start (default)")


class Amount(NamedTuple):
    """The size of the study."""

    seeds: tuple[int, ...] = (0, 1, 2)
    # priming steps at which the held-out error is measured
    marks: tuple[int, ...] = (0, 100, 200, 300)
    long_steps: int = 3000
    images: int = 1024
    batch: int = 32
    timed: tuple[int, int] = (16, 5)  # batch, repeats
    response_seeds: tuple[int, ...] = (0, 1, 2)
    response_forms: tuple[str, ...] = RESPONSE
    response_steps: int = 250
    phantoms: int = 1000


QUICK = Amount((0,), (0, 1), 2, 16, 4, (1, 1), (0,), RESPONSE[2:], 10, 16)


def unit(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) with mean 0 and variance 1 over all pixels.

    So an error is a share of the variance.
    """
    return ((images - images.mean()) / images.std()).expand(-1, 3, -1, -1)


def crops(pictures: np.ndarray, count: int, largest: int, seed: int) -> Tensor:
    """`count` random crops of uint8 `pictures` (N, C, H, W), resized to SIDE, then `unit`.

    A crop has SIDE to `largest` pixels a side.
    """
    rng = np.random.default_rng(seed)
    resized = []
    for i in range(count):
        side = int(rng.integers(SIDE, largest + 1))
        top, left = (int(rng.integers(0, length - side + 1)) for length in pictures.shape[2:])
        crop = pictures[i % len(pictures)][None, :, top : top + side, left : left + side].astype(
            np.float32
        )
        resized.append(
            F.interpolate(
                torch.from_numpy(crop), size=(SIDE, SIDE), mode="bilinear", antialias=True
            )
        )
    return unit(torch.cat(resized))


def priming_images(count: int) -> dict[str, tuple[Tensor, Tensor]]:
    """{data set: (training crops, held-out crops)} of 224-pixel phantoms and of two photographs.

    Training and held-out crops have different phantoms.
    """
    phantoms = [
        generate(count // 4, seed=0, split=s, annotated=0.0, size=224).images[:, None]
        for s in ("train", "test")
    ]
    photos = [photo.transpose(2, 0, 1)[None] for photo in load_sample_images().images]
    return {
        name: (crops(train, count, largest, 0), crops(held_out, count // 4, largest, 1))
        for name, (train, held_out), largest in (
            ("phantoms", phantoms, SIDE),
            ("photographs", photos, 2 * SIDE),
        )
    }


def prime(
    form: Form, images: Tensor, held_out: Tensor, marks: tuple[int, ...], batch: int, seed: int
) -> list[float]:
    """Held-out error at each step of `marks` of priming alone (Alg. 1, l. 14-17, w_p = 1)."""
    torch.manual_seed(seed)
    processor = build_processor(form.config)
    if form.start is not None:
        form.start(processor)
    optimizer, errors = torch.optim.AdamW(processor.parameters(), lr=2e-4, weight_decay=1e-3), []
    for step in tqdm(range(max(marks) + 1), leave=False, disable=None):
        if step in marks:
            with torch.no_grad():
                errors.append(reconstruction_errors(processor, held_out).mean().item())
        optimizer.zero_grad()
        reconstruction_errors(
            processor, images[torch.randint(len(images), (batch,))]
        ).mean().backward()
        optimizer.step()
    return errors


def milliseconds(config: ProcessorConfig, batch: int, repeats: int) -> float:
    """Median CPU time of a forward and backward pass at 224 pixels.

    Process time is measured, because machines are shared.
    """
    processor = build_processor(config)
    image, heatmap = torch.randn(batch, 3, 224, 224), torch.rand(batch, 1, 224, 224)
    times = []
    for _ in range(repeats + 1):  # the first repeat is a warm-up
        start = time.process_time()
        processor(image, heatmap).square().mean().backward()
        times.append(1000 * (time.process_time() - start))
    return float(np.median(times[1:]))


def study_priming(amount: Amount) -> list[dict]:
    """Results of priming, for each form and data set.

    With a zero start nothing depends on the seed, so one seed is enough.
    """
    jobs = [(name, amount.marks, amount.seeds) for name in FORMS]
    jobs.append(("authors' form", (0, amount.long_steps), amount.seeds[:1]))  # is it only slow?
    data, rows = priming_images(amount.images), []
    for name, marks, seeds in tqdm(jobs, desc="priming", disable=None):
        form = FORMS[name]
        if form.config.zero_init and form.start is None:
            seeds = seeds[:1]
        parameters = sum(p.numel() for p in build_processor(form.config).parameters())
        ms = milliseconds(form.config, *amount.timed)
        for data_set, (images, held_out) in data.items():
            flat = F.interpolate(F.avg_pool2d(held_out, 16), scale_factor=16)
            runs = [prime(form, images, held_out, marks, amount.batch, seed) for seed in seeds]
            rows.append(
                {
                    "form": name,
                    "config": dataclasses.asdict(form.config),
                    "parameters": parameters,
                    "ms": ms,
                    "data": data_set,
                    "steps": marks,
                    "errors": runs,
                    "patch_constant": (held_out - flat).square().mean().item(),
                }
            )
    return rows


def register_small_model(form: str) -> str:
    """Register a small eCLIP with this form with open_clip; returns its name."""
    name, processor = (
        f"study-processor-{list(FORMS).index(form)}",
        dataclasses.asdict(FORMS[form].config),
    )
    processor.update(patch=8, width=processor["width"] // 4)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, f"{name}.json").write_text(
            json.dumps({**SMALL_CLIP, "eclip_cfg": {"processor": processor}})
        )
        open_clip.add_model_config(folder)
    return name


def train_small(form: str, amount: Amount, seed: int) -> nn.Module:
    """A small eCLIP after `response_steps` steps of Algorithm 1.

    It is trained on phantoms, 20 % of them annotated.
    """
    phantoms = generate(amount.phantoms, seed=seed, split="train", annotated=0.2)
    image, heatmap = (
        unit(torch.from_numpy(phantoms.images)[:, None].float()),
        torch.from_numpy(phantoms.heatmaps)[:, None],
    )
    name = register_small_model(form)
    # the words that occur, renumbered in order: the last is still open_clip's end of text
    tokens = open_clip.get_tokenizer(name)(phantoms.reports).unique(return_inverse=True)[1]
    torch.manual_seed(seed)
    model, loss, config = open_clip.create_model(name), EClipLoss(), EClipConfig()
    loss.configure(config)
    curriculum = Curriculum(amount.response_steps, config.curriculum)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=1e-3)
    for step in tqdm(range(amount.response_steps), leave=False, disable=None):
        # the same batches for all forms: weights of a processor come from another stream
        keys = torch.randperm(len(image))[:64]
        candidates = np.flatnonzero(phantoms.annotated[keys])
        gate = draw_gate(
            seed, step, keys[candidates].tolist(), curriculum.probability(step), config.alpha
        )
        mixed = torch.from_numpy(candidates[gate.accepted])
        batch = ExpertBatch(
            image=image[keys],
            sample_id=keys,
            mix_index=mixed,
            heatmap=heatmap[keys[mixed]],
            lam=torch.from_numpy(gate.lam[gate.accepted]),
            mixed_id=keys[mixed],
            expert_image=image[:0],
            expert_text=tokens[:0],
            is_priming=curriculum.is_priming(step),
        )
        optimizer.zero_grad()
        sum(loss(**model(batch, tokens[keys]), output_dict=True).values()).backward()
        optimizer.step()
    return model.eval()


def study_response(amount: Amount) -> tuple[list[dict], dict[str, list[Tensor]]]:
    """Mean cos(v, v^E) on held-out images by kind of heatmap, and the pictures to draw.

    There is a row for each form and seed.
    """
    phantoms = generate(amount.phantoms // 4, seed=0, split="test", annotated=0.0)
    image, heatmap = (
        unit(torch.from_numpy(phantoms.images)[:, None].float()),
        torch.from_numpy(phantoms.heatmaps)[:, None],
    )
    kinds = {"true": heatmap, "shuffled": heatmap.roll(1, dims=0), "ones": torch.ones_like(heatmap)}
    rows, pictures = [], {"I": list(image[:2]), "E": list(heatmap[:2])}
    jobs = [(form, seed) for form in amount.response_forms for seed in amount.response_seeds]
    for form, seed in tqdm(jobs, desc="response", disable=None):
        model = train_small(form, amount, seed)
        with torch.no_grad():
            v = model.encode_image(image, normalize=True)
            expert = {kind: model.heatmap_processor(image, e) for kind, e in kinds.items()}
            v_expert = {kind: model.encode_image(x, normalize=True) for kind, x in expert.items()}
        pairs = {
            **{kind: (v, u) for kind, u in v_expert.items()},
            "other image": (v, v.roll(1, dims=0)),
            "true and shuffled": (v_expert["true"], v_expert["shuffled"]),
        }
        rows.append(
            {
                "form": form,
                "seed": seed,
                **{k: (a * b).sum(1).mean().item() for k, (a, b) in pairs.items()},
                "error under ones": (expert["ones"] - image).square().mean().item(),
                "distance to E*I": (expert["true"] - heatmap * image).square().mean().item(),
            }
        )
        pictures.setdefault(form, [expert[kind][i] for i in (0, 1) for kind in ("true", "ones")])
    return rows, pictures


def draw(pictures: dict[str, list[Tensor]], path: Path) -> None:
    """Draw a row for each form: for two images I, E, then I^E with E and with ones.

    All are on the grey scale of I.
    """
    forms = list(pictures)[2:]
    figure = Figure(figsize=(9.6, 1.3 * len(forms) + 0.4), layout="constrained")
    for row, (form, axes) in enumerate(zip(forms, figure.subplots(len(forms), 8))):
        axes[0].set_ylabel(
            form.replace(", ", ",\n"), rotation=0, ha="right", va="center", fontsize=8
        )
        for column, axis in enumerate(axes):
            index, kind = column // 4, column % 4
            image = pictures["I"][index].mean(0)
            picture = (
                image,
                pictures["E"][index][0],
                *(x.mean(0) for x in pictures[form][2 * index : 2 * index + 2]),
            )[kind]
            low, high = (0, 1) if kind == 1 else (image.min(), image.max())
            axis.imshow(picture, cmap="gray", vmin=low, vmax=high)
            axis.set(
                xticks=[],
                yticks=[],
                title=("I", "E", "I^E", "I^E, E = 1")[kind] if row == 0 else "",
            )
    figure.savefig(path, dpi=80)
    Image.open(path).convert("L").save(path, optimize=True)


def spread(values: Sequence[float]) -> str:
    """Mean and range as text."""
    return f"{np.mean(values):.4f}" + f" ({min(values):.4f}-{max(values):.4f})" * (len(values) > 1)


def report(result: dict) -> str:
    """The Markdown page of the study."""
    setting, priming, response = result.values()
    parts = [
        "# Heatmap processor: identity and response",
        (
            f"Priming: {setting['images']} crops in batches of {setting['batch']}, seeds"
            f" {' '.join(map(str, setting['seeds']))}. Training: {setting['response_steps']} steps"
            f" on {setting['phantoms']} phantoms, seeds"
            f" {' '.join(map(str, setting['response_seeds']))}. {setting['cpu']},"
            f" {setting['threads']} thread, torch {setting['torch']}, {setting['minutes']} minutes."
        ),
        (
            "Means over seeds, ranges in brackets. ms: CPU time of forward and backward pass of"
            f" {setting['timed'][0]} images of 224 pixels. One value per patch: error of the image"
            " averaged over each patch."
        ),
    ]
    for steps in sorted({row["steps"] for row in priming}):
        parts += [
            f"## Priming, {steps[-1]} steps",
            "Validation error of Processor(I, 1) after each number of steps. Images have variance 1.",
        ]
        rows = [
            [
                r["form"],
                r["data"],
                f"{r['parameters']:,}",
                f"{r['ms']:.0f}",
                f"{r['patch_constant']:.3f}",
                *(spread(errors) for errors in zip(*r["errors"])),
            ]
            for r in priming
            if r["steps"] == steps
        ]
        parts.append(
            markdown_table(
                ["form", "images", "parameters", "ms", "one value per patch", *map(str, steps)],
                rows,
            )
        )
    parts += [
        "## Response after training",
        (
            "Columns true, shuffled, ones: cosine of the features of I and of I^E with these heatmaps. For"
            " scale: the cosine of two images (other image), and of I^E with true and with shuffled"
            " heatmaps. The last two columns are mean squared errors of I^E: to I with heatmaps of"
            " ones, and to E*I."
        ),
    ]
    columns = list(response[0])[2:]
    rows = [
        [form, *(spread([r[c] for r in response if r["form"] == form]) for c in columns)]
        for form in dict.fromkeys(r["form"] for r in response)
    ]
    return (
        "\n\n".join(
            [
                *parts,
                markdown_table(["form", *columns], rows),
                "![I, E and I^E by form](processor.png)",
            ]
        )
        + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        help="output folder for processor.md, .json and .png",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="runs a few steps of everything, to test the script",
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    amount, start = QUICK if args.quick else Amount(), time.perf_counter()
    priming = study_priming(amount)
    # saved here, because the second part may be interrupted
    Path(args.out, "processor.json").write_text(json.dumps(priming))
    response, pictures = study_response(amount)
    cpu = Path("/proc/cpuinfo").read_text().split("model name\t: ")[1].splitlines()[0]  # Linux
    setting = {
        "quick": args.quick,
        **amount._asdict(),
        "cpu": cpu,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "minutes": round((time.perf_counter() - start) / 60),
    }
    result = {"setting": setting, "priming": priming, "response": response}
    Path(args.out, "processor.json").write_text(json.dumps(result))
    Path(args.out, "processor.md").write_text(report(result))
    draw(pictures, args.out / "processor.png")


if __name__ == "__main__":
    main()
