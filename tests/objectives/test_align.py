"""`--method align`: loss, gradient and samples; training alone and with other methods."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from conftest import BASIC, Launcher, write_table
from reference import align as reference
from test_flag_checks import run
from workers.ddp_loss import make_loss, make_part

from openclip_eclip.batching.curriculum import Curriculum
from openclip_eclip.batching.planned_loader import PlannedLoader
from openclip_eclip.config import EClipConfig, UserError
from openclip_eclip.data.sample import Sample, SampleBatch, collate
from openclip_eclip.objectives import Align, Dacl, Objective
from openclip_eclip.objectives.align import AlignConfig
from openclip_eclip.towers.positions import encode_positions
from training_patches.run_settings import check_resumed_params

OLD_NAMES = ("--align-least", 0.2, "--align-replay=0.5", "--eclip-heatmap-control", "centre")
NEW_NAMES = ("--align-min-share", 0.2, "--align-oversample=0.5", "--eclip-placebo", "centre")


def tiny(processor: dict | None = None) -> torch.nn.Module:
    torch.manual_seed(0)
    return open_clip.create_model(
        "tiny", output_dict=True, eclip_cfg={"processor": processor}
    ).double()


def set_up(
    model: torch.nn.Module,
    objectives: tuple[Objective, ...],
    rows: list[int],
    expert: int,
    again: int = 0,
) -> tuple:
    """(loss, batch, text) of three images; `rows` are annotated, and the gate accepts none.

    `expert`: images of the separate stream; `again`: oversampled images.
    """
    batch, text = make_part(0, [], expert, False)
    batch.annotated = torch.tensor(rows, dtype=torch.int64)
    batch.annotated_heatmap = torch.rand(len(rows), 1, 32, 32, dtype=torch.float64)
    if again:
        batch.oversampled_image, batch.oversampled_text = (
            torch.randn(again, 3, 32, 32, dtype=torch.float64),
            torch.randint(1, 999, (again, 16)),
        )
        batch.oversampled_heatmap = torch.rand(again, 1, 32, 32, dtype=torch.float64)
    for objective in objectives:
        batch.draws.update(objective.draw(0, 0, 0, batch.sample_id))
    model.objectives = objectives
    loss = make_loss(False, False, False, "diagonal", 0, 1)
    loss.configure(model.eclip_config, objectives)
    return loss, batch, text


@pytest.mark.parametrize(
    "processor", [None, {"width": 32, "heads": 4, "zero_init": False}], ids=["alone", "eclip"]
)
@pytest.mark.parametrize(
    "rows,expert,again,min_share",
    [
        ([], 0, 0, 0),
        ([2, 0], 0, 0, 0),
        ([1], 2, 0, 0),
        ([], 1, 0, 0),
        ([], 0, 2, 0),
        ([1], 0, 1, 0),
        ([2, 0], 1, 2, 0),
        ([], 0, 0, 0.5),
        ([1], 0, 0, 0.5),
        ([2, 0], 0, 0, 0.5),
        ([], 1, 0, 1),
        ([1], 2, 0, 1),
        ([1], 0, 1, 1),
    ],
)
def test_loss_matches_numpy(
    processor: dict | None, rows: list, expert: int, again: int, min_share: float
) -> None:
    """Every annotated image counts unmixed, with its own text and map; other terms are unchanged.

    Annotated images are those of the batch, of the separate stream and the oversampled ones.
    """
    model = tiny(processor)
    loss, batch, text = set_up(
        model,
        (Align(AlignConfig(weight=0.5, temperature=0.2, power=2, min_share=min_share)),),
        rows,
        expert,
        again,
    )
    out = model(batch, text)
    losses = loss(**out, output_dict=True)
    with torch.no_grad():
        images = torch.cat(
            [batch.image[rows], batch.expert_image, *[batch.oversampled_image] * bool(again)]
        )
        texts = torch.cat([text[rows], batch.expert_text, *[batch.oversampled_text] * bool(again)])
        words = model.encode_text(texts, normalize=True).numpy() if len(texts) else []
        positions = encode_positions(model.visual, images).numpy() if len(images) else []
    looks = [reference.attention(one, t, 0.2) for one, t in zip(positions, words)]
    expected = 0.5 * reference.loss(
        [
            one[0].numpy()
            for one in (*batch.annotated_heatmap, *batch.heatmap, *batch.oversampled_heatmap)
        ],
        looks,
        power=2,
        minimum=min_share * 3,
    )
    assert float(losses["align_loss"].detach()) == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert len(out["align_error"]) == len(rows) + expert + again
    assert not {
        "align_stream",
        "align_oversampled",
    } & set(out)
    model.objectives = loss.objectives = ()
    assert all(
        torch.equal(losses[name], value) for name, value in loss(**out, output_dict=True).items()
    )
    alone = loss(**model(batch, text), output_dict=True)
    assert set(losses) - set(alone) == {"align_loss"}
    # images of the stream make the pass larger, and its last bit another one on some CPUs
    for (
        name,
        value,
    ) in alone.items():
        torch.testing.assert_close(
            losses[name], value, rtol=1e-12 if expert or again else 0, atol=0
        )


def test_plain_images_of_the_separate_stream_are_encoded_once() -> None:
    model = tiny({"kind": "mask"})
    results = []
    for plain in (False, True):
        loss, batch, text = set_up(model, (Align(stream_is_plain=plain),), [1], 2)
        batch.annotated_heatmap = torch.ones(1, 1, 32, 32, dtype=torch.float64).tril()
        batch.lam = torch.ones(2)  # as --naive-form plain
        seen = []
        hook = model.visual.conv1.register_forward_hook(
            lambda _, inputs, __, seen=seen: seen.append(len(inputs[0]))
        )
        results.append(float(loss(**model(batch, text), output_dict=True)["align_loss"].detach()))
        hook.remove()
        assert seen == [5 if plain else 7]
    assert results[0] == pytest.approx(results[1], rel=1e-12)


def test_gradient() -> None:
    """The image tower's gradient matches finite differences; the text tower has none."""
    model = tiny()
    loss, batch, text = set_up(model, (Align(),), [0, 2], 1, again=2)

    assert_gradient(model, lambda: loss(**model(batch, text), output_dict=True)["align_loss"])


def assert_gradient(model: torch.nn.Module, value: Callable[[], torch.Tensor]) -> None:
    value().backward()
    generator = torch.Generator().manual_seed(0)
    visual = dict(model.visual.named_parameters())
    direction = {
        name: torch.randn(p.shape, generator=generator, dtype=p.dtype) for name, p in visual.items()
    }
    slope = sum(
        float((p.grad * direction[name]).sum()) for name, p in visual.items() if p.grad is not None
    )
    ends = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for name, p in visual.items():
                p += step * direction[name]
            ends.append(float(value()))
    assert slope == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5) and abs(slope) > 1e-3
    assert all(
        p.grad is None or not p.grad.any()
        for name, p in model.named_parameters()
        if not name.startswith("visual.")
    )


@pytest.mark.slow
def test_training_moves_attention_to_the_marked_region() -> None:
    model = tiny()
    loss, batch, text = set_up(model, (Align(),), [0, 1, 2], 0)
    batch.annotated_heatmap = torch.zeros(3, 1, 32, 32, dtype=torch.float64)
    for row, (top, left) in enumerate(((0, 0), (0, 16), (16, 0))):
        batch.annotated_heatmap[row, :, top : top + 16, left : left + 16] = 1
    optimizer = torch.optim.Adam(model.visual.parameters(), lr=3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        value = loss(**model(batch, text), output_dict=True)["align_loss"]
        value.backward()
        optimizer.step()
    with torch.no_grad():
        words = model.encode_text(text, normalize=True)
        similarity = torch.einsum(
            "bhwd,bd->bhw",
            torch.nn.functional.normalize(encode_positions(model.visual, batch.image), dim=-1),
            words,
        )
    assert similarity.flatten(1).argmax(1).tolist() == [0, 1, 2] and float(value.detach()) < 0.2


def samples(count: int, annotated: list[int]) -> SampleBatch:
    return collate(
        [
            Sample(
                torch.rand(3, 4, 4),
                torch.zeros(2, dtype=torch.int64),
                i,
                torch.rand(1, 4, 4) if i in annotated else None,
            )
            for i in range(count)
        ]
    )


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_batch_has_all_heatmaps_whatever_the_gate_decides(probability: float) -> None:
    """Only for an objective that needs them; the pairs are those of the gate."""
    always = EClipConfig.from_dict(
        {"curriculum": {"cold": 0, "warm": 0, "cool": 0, "end": probability}}
    )
    fields = samples(5, [1, 4])
    for objectives, mixes, carried in (
        ((Align(),), True, 2),
        ((Align(), Dacl()), False, 2),
        ((), True, 0),
        ((Align(AlignConfig(weight=0)),), True, 0),
    ):
        loader = PlannedLoader(
            SimpleNamespace(num_batches=1, num_samples=5),
            always,
            Curriculum(1, always.curriculum),
            seed=0,
            mixes=mixes,
            objectives=objectives,
        )
        batch = loader.plan(fields, 0, None).to(dtype=torch.bfloat16)
        pairs = [1, 4] if mixes and probability else []
        assert batch.mix_index.tolist() == pairs
        assert len(batch.heatmap) == len(pairs)
        assert sum(loader.views.values()) == len(pairs)
        assert batch.annotated.tolist() == [1, 4][:carried]
        assert len(batch.annotated_heatmap) == carried
        assert batch.annotated_heatmap.dtype == torch.bfloat16
        assert not carried or torch.equal(batch.annotated_heatmap, fields.heatmap.bfloat16())


@pytest.mark.parametrize(
    "flags,message",
    [
        (
            ["--method", "align", "--expert-data", "x.csv"],
            "take naive+align, with --naive-form plain",
        ),
        (["--method", "align", "--align-weight", "-1"], "weight=-1.0; expected 0 or more"),
        (["--method", "align", "--align-weight", "nan"], "--align-weight nan"),
        (["--method", "align", "--align-weight", "inf"], "--align-weight inf"),
        (["--method", "align", "--align-heads", "0.5"], "--align-heads went after release 0.1"),
        (
            ["--method", "align", "--align-min-share", "5"],
            "min_share=5.0; expected a share",
        ),
        (
            ["--method", "align", "--align-oversample", "5"],
            "oversample=5.0; expected a share",
        ),
        (["--align-oversample", "0.1"], "give --method align"),
        (["--align-weight", "1"], "give --method align"),
        (["--align-min-share", "0.1"], "give --method align"),
        (["--method", "align", "--align-schedule=linear"], "drop it, or use release 0.1"),
        (["--method", "align", "--lock-image"], "cannot learn where to attend"),
        (["--method", "align+dacl", "--dacl-form", "release"], "encodes mixed images only"),
        (
            [
                *"--method naive --naive-form plain --expert-data x.csv".split(),
                *("--eclip-placebo", "ones"),
            ],
            "it uses no heatmap",
        ),
    ],
)
def test_bad_combinations_of_flags_are_errors(
    flags: list[str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        run(tmp_path, *flags, table=tmp_path / "never-read.csv")


def test_tower_without_a_map_is_an_error_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="drops patches"):
        run(
            tmp_path,
            "--method",
            "align",
            "--force-patch-dropout",
            "0.5",
            table=write_table(tmp_path, 6, annotated=[1]),
        )


# ---- training


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Launcher:
    """Short runs in one process; 4 of 24 samples are annotated, so some batches have none."""
    launcher = Launcher(tmp_path_factory.mktemp("align"))
    table, blank = (
        write_table(launcher.folder, 24, annotated=range(0, 24, 6)),
        write_table(launcher.folder, 24, name="blank.csv"),
    )
    lone = write_table(launcher.folder, 24, annotated=[7], name="lone.csv")
    data = (*BASIC, "--eclip-curriculum", 0.2, 0, 0, 0, 0, 1, "--train-data")
    common, align = (*data, table, "--batch-size", 4, "--epochs", 1), ("--method", "align")
    still = (*data, table, "--epochs", 1, "--lr", 0)
    launcher.train(
        (*common, "--name", "clip", "--method", "clip"),
        (*common, "--name", "zero", *align, "--align-weight", 0),
        (*data, blank, "--batch-size", 4, "--epochs", 1, "--name", "blank", *align),
        (*common, "--name", "align", *align),
        (*common, "--name", "placebo", *align, "--eclip-placebo", "centre"),
        (
            *common,
            *"--name all --method eclip+align+gloria+dacl".split(),
            *("--expert-data", table),
            *"--eclip-placebo shuffled --align-oversample 0.5".split(),
        ),
        (
            *common,
            *"--name plain --method naive+align --naive-form plain".split(),
            *("--expert-data", table),
        ),
        (*common, "--name", "siglip", *align, "--siglip", "--align-weight", 2),
        (
            *common,
            *"--name bf16 --method eclip+align --precision bf16".split(),
            *("--eclip-own-pairs", "mask"),
        ),
        (*common, "--name", "amp", *align, "--precision", "amp_bf16", "--grad-checkpointing"),
        (*still, "--name", "weight 1", "--batch-size", 4, *align),
        (*still, "--name", "weight 2", "--batch-size", 4, *align, "--align-weight", 2),
        (*still, "--name", "one", "--batch-size", 12, "--method", "eclip+align"),
        (*still, *"--name three --batch-size 4 --accum-freq 3 --method eclip+align".split()),
        *(
            (
                *still,
                *("--name", f"min {share}"),
                "--batch-size",
                8,
                *align,
                *("--align-min-share", share),
            )
            for share in (0, 0.16, 0.2)
        ),
        *(
            (
                *data,
                lone,
                *"--epochs 1 --lr 0".split(),
                *("--name", f"lone {size}"),
                *("--batch-size", size),
                *("--accum-freq", 24 // size),
                *align,
                "--align-min-share",
                0.5,
            )
            for size in (24, 8)
        ),
        (*common, "--name", "again", *align, "--align-oversample", 0.5, "--workers", 1),
        (*common, "--name", "enough", *align, "--align-oversample", 0.33),
        (
            *common,
            *("--name", "zero again"),
            *align,
            *"--align-weight 0 --align-oversample 0.5 --align-min-share 0.5".split(),
        ),
        (
            *data,
            blank,
            *"--batch-size 4 --epochs 1".split(),
            *("--name", "blank again"),
            *align,
            "--align-oversample",
            0.5,
        ),
        (
            *common,
            *("--name", "again, placebo"),
            *align,
            *"--align-oversample 0.5 --eclip-placebo centre".split(),
        ),
        *(
            (
                *still,
                *("--name", f"again {size}"),
                *("--batch-size", size),
                *("--accum-freq", 12 // size),
                "--method",
                "eclip+align",
                *("--align-oversample", 5 / 12),
            )
            for size in (12, 4)
        ),
        *(
            (*common, "--name", name, *align, *words)
            for name, words in (("old names", OLD_NAMES), ("new names", NEW_NAMES))
        ),
        (*common, *"--name whole --method eclip+align --align-oversample 0.5 --epochs 2".split()),
        (
            *common,
            *"--name resumed --method eclip+align --align-oversample 0.5 --epochs 2".split(),
            *("--resume", "logs/whole/checkpoints/epoch_1.pt"),
        ),
    )
    return launcher


def aligned(launcher: Launcher, name: str) -> list[float]:
    return launcher.losses(name, "Align_loss")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero", "blank", "zero again", "blank again"])
def test_weight_0_or_no_annotation_is_bit_for_bit_clip(runs: Launcher, name: str) -> None:
    expected, result = runs.weights("clip", 1), runs.weights(name, 1)
    assert set(result) == set(expected)
    assert all(torch.equal(result[key], value) for key, value in expected.items())
    assert runs.losses(name) == runs.losses("clip") and not any(aligned(runs, name))
    assert any(
        not torch.equal(value, expected[key]) for key, value in runs.weights("align", 1).items()
    )
    assert ("no heatmap in the data: nothing is aligned" in runs.log(name)) == name.startswith(
        "blank"
    )
    assert "of the data is annotated" not in runs.log(name)
    assert "once more" not in runs.log(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["align", "placebo", "all", "plain", "siglip", "bf16", "amp"])
def test_alignment_trains_with_every_method(runs: Launcher, name: str) -> None:
    losses, values = runs.losses(name), aligned(runs, name)
    assert len(losses) == len(values) == 6
    assert np.isfinite(losses).all()
    assert sum(value > 0 for value in values) >= 2


@pytest.mark.slow
def test_alignment_alone_leaves_a_plain_checkpoint_and_logs_its_data(runs: Launcher) -> None:
    assert set(runs.weights("align", 1)) == set(runs.weights("clip", 1))
    log = runs.log("align")
    assert "4 annotated samples\n" in log
    assert "mixed pairs" not in log
    assert "processor" not in log.split("Start epoch 0")[-1]
    assert not (runs.folder / "logs" / "align" / "annotated_views.csv").exists()
    assert "placebo" in runs.log("placebo") and aligned(runs, "placebo") != aligned(runs, "align")
    assert [value > 0 for value in aligned(runs, "align")] == [
        value > 0 for value in aligned(runs, "placebo")
    ]
    assert set(re.findall(r"mixed pairs (\d+)", runs.log("plain"))) == {"2"}  # of the stream alone


@pytest.mark.slow
def test_loss_in_low_precision_is_close(runs: Launcher) -> None:
    for name in ("bf16", "amp"):
        assert aligned(runs, name)[0] == pytest.approx(aligned(runs, "align")[0], rel=0.02)


@pytest.mark.slow
def test_the_weight_scales_the_loss(runs: Launcher) -> None:
    expected = [2 * value for value in aligned(runs, "weight 1")]
    assert aligned(runs, "weight 2") == pytest.approx(expected, rel=1e-3)


@pytest.mark.slow
def test_accumulation_matches_the_large_batch(runs: Launcher) -> None:
    assert len(runs.losses("one")) == 2 and all(aligned(runs, "one"))
    assert aligned(runs, "three") == pytest.approx(aligned(runs, "one"), rel=1e-4)
    assert runs.losses("three") == pytest.approx(runs.losses("one"), rel=2e-5)


@pytest.mark.slow
def test_annotated_images_are_oversampled_where_few_are_annotated(runs: Launcher) -> None:
    """4 of 24 are annotated: less than half of 0.5, and not less than half of 0.33.

    With 0.5 every batch of four gets one more annotated image.
    """
    assert (
        "16.7 % of --train-data has heatmaps: each batch of a rank gets 1 of these images once"
        " more" in runs.log("again")
    )
    assert len(aligned(runs, "again")) == 6
    assert all(aligned(runs, "again"))
    assert not all(aligned(runs, "align"))
    assert aligned(runs, "enough") == aligned(runs, "align")
    assert runs.losses("enough") == runs.losses("align")
    assert "once more" not in runs.log("enough")
    assert set(runs.weights("again", 1)) == set(runs.weights("clip", 1))
    assert aligned(runs, "again, placebo") != aligned(runs, "again")


@pytest.mark.slow
def test_oversampled_images_match_those_of_the_large_batch(runs: Launcher) -> None:
    assert "gets 3 of these images" in runs.log("again 12")
    assert "gets 1 of these images" in runs.log("again 4")
    assert len(aligned(runs, "again 4")) == 2
    assert aligned(runs, "again 4") == pytest.approx(aligned(runs, "again 12"), rel=1e-4)
    assert runs.losses("again 4") == pytest.approx(runs.losses("again 12"), rel=2e-5)
    assert aligned(runs, "again 4") != aligned(runs, "three")


@pytest.mark.slow
def test_min_share_counts_the_accumulated_batch(runs: Launcher) -> None:
    """One annotated image in 24: its error is divided by 12, not by the 4 that 8 images need."""
    whole, parts = aligned(runs, "lone 24"), aligned(runs, "lone 8")
    assert len(whole) == len(parts) == 1 and 0 < parts[0] == pytest.approx(whole[0], rel=1e-4)
    assert (
        "4.17 % of the data is annotated: alignment is a mean over at least 50 % of each batch"
        in runs.log("lone 8")
    )


@pytest.mark.parametrize("weight", [0, 1])
def test_shares_apply_only_with_a_weight_above_0(
    weight: float, caplog: pytest.LogCaptureFixture
) -> None:
    align = Align(AlignConfig(weight=weight, min_share=0.5, oversample=0.5))
    with caplog.at_level("INFO"):
        align.use_annotated(0.1)
    assert bool(caplog.records) == bool(weight) and align.oversample == (0.5 if weight else 0)


@pytest.mark.parametrize("annotated,total", [(15, 300), (30, 600), (100, 2000)])
def test_min_share_does_not_apply_at_exactly_that_share(annotated: int, total: int) -> None:
    """The settings with 5 % of the benchmark; with one sample less it applies."""
    align = Align(AlignConfig(min_share=0.05))
    align.use_annotated(annotated / total)
    assert align.min_share == 0
    align.use_annotated((annotated - 1) / total)
    assert align.min_share == 0.05


@pytest.mark.slow
def test_min_share_applies_where_less_is_annotated(runs: Launcher) -> None:
    """4 of 24 are annotated, and two batches of eight have a single one.

    With a minimum share of 0.2 its error is divided by 1.6, with 0.16 by 1.
    """
    mean, enough, few = (aligned(runs, f"min {share}") for share in (0, 0.16, 0.2))
    assert enough == mean and "of the data is annotated" not in runs.log("min 0.16")
    assert [value / other for value, other in zip(mean, few) if other] == pytest.approx(
        [1, 1.6, 1.6], rel=1e-4
    )


@pytest.mark.slow
def test_resumed_run_equals_the_uninterrupted_run(runs: Launcher) -> None:
    result = runs.weights("resumed", 2)
    assert "resuming checkpoint" in runs.log("resumed")
    assert aligned(runs, "resumed") == aligned(runs, "whole")[6:]
    assert all(torch.equal(result[key], value) for key, value in runs.weights("whole", 2).items())


@pytest.mark.slow
def test_flags_of_release_0_1_train_the_same_weights(runs: Launcher) -> None:
    old, new = runs.weights("old names", 1), runs.weights("new names", 1)
    assert old.keys() == new.keys()
    assert all(torch.equal(old[key], value) for key, value in new.items())
    assert aligned(runs, "old names") == aligned(runs, "new names")


@pytest.mark.slow
def test_a_run_of_release_0_1_is_resumed(runs: Launcher) -> None:
    """Its checkpoint and the command have the old names; only --epochs differs."""
    path = runs.folder / "logs" / "old names" / "checkpoints" / "epoch_1.pt"
    checkpoint = torch.load(path, weights_only=True)
    settings = checkpoint["eclip"]["settings"]
    settings["eclip_heatmap_control"] = settings.pop("eclip_placebo")
    torch.save(checkpoint, path)
    data = (*BASIC, "--train-data", runs.folder / "train.csv", "--batch-size", 4)
    run = (*data, "--name", "old names", "--method", "align", "--resume", "latest")
    curriculum = ("--eclip-curriculum", 0.2, 0, 0, 0, 0, 1)
    done = runs.train((*run, *curriculum, *OLD_NAMES, "--epochs", 2))
    for old, new in (
        ("--align-least", "--align-min-share"),
        ("--align-replay", "--align-oversample"),
        ("--eclip-heatmap-control", "--eclip-placebo"),
    ):
        notice = f"{old} is now {new}; the old spelling goes in the next release.\n"
        assert done.stderr.count(notice) == 1
    changed = re.findall(r"resuming with another setting: (.*)", runs.log("old names"))
    assert changed == ["--epochs 1 -> 2"]


def test_a_config_of_release_0_1_loads() -> None:
    config = AlignConfig.from_dict({"weight": 0.5, "least": 0.05, "replay": 0.1})
    assert config == AlignConfig(weight=0.5, min_share=0.05, oversample=0.1)
    with pytest.raises(UserError, match="align: unknown key 'most'; known keys: .*min_share"):
        AlignConfig.from_dict({"most": 1})


def test_removed_option_loads_only_with_its_default(tmp_path: Path) -> None:
    """In a config, and in params.txt of a run to be resumed; None means not given."""
    for values in ({"schedule": "constant", "heads": 1}, {"schedule": None, "heads": None}):
        assert AlignConfig.from_dict(values) == AlignConfig()
    message = "--align-heads 0.5 went after release 0.1, since it brought no gain; use release 0.1"
    with pytest.raises(UserError, match=re.escape(f"align: {message}")):
        AlignConfig.from_dict({"heads": 0.5})
    args = SimpleNamespace(resume="latest", logs=str(tmp_path), name="run")
    params = tmp_path / "run" / "params.txt"
    check_resumed_params(args)  # no run there yet
    params.parent.mkdir()
    params.write_text("align_heads: None\nalign_schedule: constant\naug_cfg: {'scale': (0.5, 1)}\n")
    check_resumed_params(args)
    params.write_text("align_heads: 0.5\n")
    checkpoint = str(tmp_path / "run" / "checkpoints" / "epoch_1.pt")
    for resume in ("latest", checkpoint):
        with pytest.raises(UserError, match=re.escape(f"{params}: {message}")):
            check_resumed_params(SimpleNamespace(**{**vars(args), "resume": resume}))


@pytest.mark.slow
def test_two_processes_match_a_single_process(launcher: Launcher) -> None:
    """Loss and gradients, with unequal numbers of annotated samples and sentences on the ranks.

    Some cases have none on one rank or on both, with and without a separate stream.
    """
    results = launcher.worker("ddp_align")
    assert len(results) == (4 + 3) * (5 + 5 + 1) + (3 + 1) * 5
    wrong = [
        case
        for case in results
        if abs(case["loss"] - case["expected"]) > 1e-9 * case["expected"]
        or case["names"]
        or abs(case["align"] - case["expected_align"]) > 1e-9
        or abs(case["contrast"] - case["expected_contrast"]) > 1e-9
        or case["gradient_error"] > 1e-8
    ]
    assert not wrong, wrong[:2]
    assert [bool(case["align"]) for case in results[:20:5]] == [False, True, True, True]
    # of phrases on one rank, on the other, on both, and on none
    with_regions = results[35:55:5]
    assert [bool(case["contrast"]) for case in with_regions] == [True, True, True, False]
