"""Combinations of flags that have no meaning, and what to give instead."""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

from .checkpoint_files import weight_files
from .config import UserError
from .flag_checks import check_data_flags, check_flags, check_own_numbers
from .model_folder import how_to_get_weights
from .objectives import OBJECTIVES
from .params import EXPERTS, HEATMAPS, eclip_parser
from .recipes import FINE_TUNING, KEPT_METHODS
from .same_text import check_same_text

# flags of open_clip that do not work with heatmaps, and what to do instead
UNSUPPORTED = {
    "horovod": "use torchrun",
    "distill_model": "train without --distill-model",
    "trace": "export a finished run instead (openclip-eclip export)",
    "torchscript": "use --torchcompile",
    "use_bnb_linear": "train without --use-bnb-linear",
    "ddp_static_graph": "the number of mixed pairs, hence the graph, changes from step to step",
}


def reject_unsupported(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    """UserError for a combination that cannot work, before anything is built.

    `names`: the parts of --method.
    """
    for name, advice in UNSUPPORTED.items():
        if getattr(args, name, None):
            raise UserError(
                f"--{name.replace('_', '-')} does not work with openclip_eclip.train: {advice}."
            )
    if "coca" in args.model.lower():
        raise UserError(
            f"--model {args.model}: eCLIP needs a contrastive model; CoCa is not supported."
        )
    if args.expert_batch_size is not None and not args.expert_data:
        raise UserError(
            "--expert-batch-size without --expert-data: name the annotated source, or drop the"
            " flag."
        )
    if (args.eclip_placebo == "same-class-shuffled") != (args.csv_label_key is not None):
        raise UserError(
            "--csv-label-key names the classes for --eclip-placebo same-class-shuffled:"
            " give both or neither."
        )
    if args.eclip_no_mixup and args.eclip_alpha is not None:
        raise UserError(
            f"--eclip-no-mixup with --eclip-alpha {args.eclip_alpha:g}: without mixup there is no"
            " lambda to draw; drop one of them."
        )
    if args.expert_data and not args.train_data:
        raise UserError(
            "--expert-data without --train-data: experts are added to batches of training data."
        )
    _check_towers(args)
    changing = [name for name in names if name not in KEPT_METHODS]
    if args.cache_tokens and changing:
        raise UserError(
            f"--cache-tokens with --method {changing[0]}: it shows other images in each step, or"
            " reads other layers, so results would be kept that nothing finds again; drop"
            f" --cache-tokens, or take --method {' or '.join(KEPT_METHODS)}."
        )
    if args.cache_tokens and args.torchcompile:
        raise UserError(
            "--cache-tokens with --torchcompile: a compiled tower computes everything; drop one of"
            " them."
        )
    if args.cache_tokens and args.fast_jpeg:
        raise UserError(
            "--fast-jpeg with --cache-tokens: the content of the whole image chooses its views, and"
            " it is read in the first epochs only; drop one of them."
        )
    check_same_text(args, names)
    _check_saving(args)
    _check_stopping(args)
    check_own_numbers(args, eclip_parser()._actions)
    _check_methods(args, names)
    _check_models(args, names)
    check_flags(args)
    check_data_flags(args)


def _check_towers(args: argparse.Namespace) -> None:
    if args.cache_tokens and args.lora_image:
        raise UserError(
            f"--cache-tokens with --lora-image {args.lora_image}: LoRA changes the tokens in each"
            " step, so nothing that was kept would be right; drop one of them."
        )
    for tower in ("image", "text"):
        given = [
            f"--{kind}-{tower}"
            for kind in ("freeze", "lock", "lora")
            if getattr(args, f"{kind}_{tower}")
        ]
        if len(given) > 1:
            raise UserError(
                f"{' with '.join(given)}: two ways to freeze one tower; drop one of them."
            )
    if args.freeze_image and args.force_patch_dropout:
        raise UserError(
            f"--force-patch-dropout with --freeze-image {args.freeze_image}: frozen parts compute"
            " as in evaluation, where no patch is dropped; drop one of them."
        )
    if (args.lora_image or args.lora_text) and find_spec("peft") is None:
        raise UserError(
            f"--lora-{'image' if args.lora_image else 'text'} needs peft: pip install"
            " 'openclip_eclip[lora]'."
        )


def _check_saving(args: argparse.Namespace) -> None:
    steps, minutes = args.save_every_steps, args.save_every_minutes
    if steps is not None and steps < 1:
        raise UserError(
            f"--save-every-steps {steps}: expected at least 1; drop the flag to save "
            "at the end of epochs only."
        )
    if minutes is not None and not 0 < minutes < float("inf"):
        raise UserError(
            f"--save-every-minutes {minutes:g}: expected a number above 0; drop the "
            "flag to save at the end of epochs only."
        )
    if args.keep_last < 1:
        raise UserError(f"--keep-last {args.keep_last}: expected at least 1.")
    if (steps or minutes) and (not args.logs or args.logs.lower() == "none"):
        flag = "--save-every-steps" if steps else "--save-every-minutes"
        raise UserError(f"{flag} with --logs {args.logs}: nothing is saved there; name a folder.")


def _check_stopping(args: argparse.Namespace) -> None:
    flag = "--keep-best" if args.keep_best else "--minutes" if args.minutes is not None else None
    if flag is None:
        return
    if not args.train_data and args.dataset_type != "synthetic":
        raise UserError(f"{flag} without --train-data: nothing is trained; drop it.")
    if not args.logs or args.logs.lower() == "none":
        raise UserError(f"{flag} with --logs {args.logs}: nothing is saved there; name a folder.")
    if args.keep_best and not args.val_frequency:
        raise UserError(
            "--keep-best with --val-frequency 0: no epoch is validated; give --val-frequency 1."
        )
    if args.keep_best == "grounding" and args.eclip_placebo:
        raise UserError(
            f"--keep-best grounding with --eclip-placebo {args.eclip_placebo}: true heatmaps would"
            " choose the epoch of a run that must not know them; take another measure."
        )


def _check_methods(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    joined = "+".join(names)
    if args.expert_data and not set(EXPERTS) & set(names):
        why = (
            "its samples enter as pairs, which eclip or naive append: take naive+align, with"
            " --naive-form plain for unchanged images"
            if "align" in names
            else "it uses no annotation; drop one of them, or add eclip or naive"
        )
        raise UserError(f"--expert-data with --method {joined}: {why}.")
    if args.eclip_placebo and (
        not set(HEATMAPS) & set(names) or (args.naive_form == "plain" and "align" not in names)
    ):
        raise UserError(
            "--eclip-placebo with --method"
            f" {joined}{' --naive-form plain' if args.naive_form else ''}: it uses no heatmap; drop"
            " one of them."
        )
    if args.eclip_placebo and args.align_windows:
        raise UserError(
            "--eclip-placebo with --align-windows: a placebo replaces the map of a whole"
            " report, and the sentences would keep their true ones; drop one of them."
        )
    if args.naive_form is not None and "naive" not in names:
        raise UserError(f"--naive-form with --method {joined}: give --method naive, or drop it.")
    if "naive" in names and args.eclip_alpha is not None:
        raise UserError("--eclip-alpha with --method naive: it does not mix; drop one of them.")
    if args.naive_form == "plain" and not args.expert_data:
        raise UserError(
            "--naive-form plain without --expert-data: annotated rows of --train-data are CLIP"
            " pairs already; name the annotated source, or use --method clip."
        )
    if args.naive_form in ("multiply", "plain") and args.eclip_processor is not None:
        raise UserError(
            f"--eclip-processor with --naive-form {args.naive_form}: that form has no processor;"
            " drop one of them."
        )
    for name, kind in OBJECTIVES.items():
        parser = argparse.ArgumentParser(add_help=False)
        kind.add_flags(parser)
        for action in parser._actions:
            if name not in names and getattr(args, action.dest) is not None:
                raise UserError(
                    f"{action.option_strings[0]} with --method {joined}: give --method {name}, or"
                    " drop it."
                )


def _check_models(args: argparse.Namespace, names: tuple[str, ...]) -> None:
    source = args.model.removeprefix("eclip-")
    fine_tuning = "m3-mix" in names or args.recipe in FINE_TUNING
    what = f"--recipe {args.recipe}" if args.recipe in FINE_TUNING else "--method m3-mix"
    brings_weights = source.startswith(("local-dir:", "hf-hub:"))
    if source.startswith("local-dir:"):
        folder = Path(source.removeprefix("local-dir:"))
        brings_weights = bool(weight_files(folder))
        if fine_tuning and not (brings_weights or args.pretrained or args.resume):
            raise UserError(
                f"{what} needs trained weights, and {folder} holds none:"
                f" {how_to_get_weights(folder)}."
            )
    # open_clip ignores --pretrained here, and records it as used
    if args.pretrained and source.startswith(("local-dir:", "hf-hub:")):
        weights = (
            "brings its own weights"
            if brings_weights
            else "is built as its folder says, without weights"
        )
        raise UserError(
            f"--pretrained {args.pretrained} with --model {args.model}, which {weights}: leave"
            " --pretrained out, or name an architecture (--model ViT-B-16); `python -m"
            f" openclip_eclip.export {args.pretrained} NEW --model {args.model}` makes a folder of"
            " that model with those weights, for --model local-dir:NEW."
        )
    if args.pretrained_image and (args.pretrained or (brings_weights and not args.resume)):
        raise UserError(
            "--pretrained-image with"
            f" {'--pretrained ' + args.pretrained if args.pretrained else '--model ' + args.model},"
            " whose weights take its place: drop one of them."
        )
    if fine_tuning and not (args.pretrained or ":" in args.model or args.resume):
        raise UserError(
            f"--model {args.model} begins with random weights, and {what} needs trained ones: give"
            " --pretrained TAG_OR_FILE, or --model local-dir:FOLDER."
        )
