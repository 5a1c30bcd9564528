"""Writer with a causal language model of transformers, from a local folder or the hub."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..config import UserError
from ..files import sha256
from .base import Generation, Query

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "4bit": torch.bfloat16,
}


class CausalLMWriter:
    """Decodes greedily, in batches padded on the left, with the tokenizer's own chat template.

    In fp32 a batch gives the same tokens as its queries one by one. In lower precision, rounding
    may decide between two equally likely tokens differently.
    """

    def __init__(
        self,
        name: str,
        max_new_tokens: int,
        batch_size: int = 1,
        precision: str = "auto",
        device: str | None = None,
    ) -> None:
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        precision = _choose_precision(precision, target)
        self.model, self.tokenizer = _load(name, precision, target)
        self.batch_size, self.max_new_tokens = batch_size, max_new_tokens
        self._ends = _end_tokens(self.model, self.tokenizer)
        from transformers import GenerationConfig

        # replaces the model's own configuration, which may sample or penalise repetition
        self.model.generation_config = GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        self.facts: dict[str, Any] = {
            "writer": "transformers",
            "model": name,
            **_identity(name, self.model),
            "precision": precision,
            "device": target.type,
            "batch_size": batch_size,
            "runtime": f"transformers {version('transformers')}, torch {torch.__version__}",
            "sampling": {"temperature": 0, "max_new_tokens": max_new_tokens},
        }

    def write(self, queries: Sequence[Query]) -> list[Generation]:
        """One generation for each query, in order.

        Raises:
            UserError: the chat template rejects a prompt, or a prompt is longer than the context.
        """
        generations = []
        for first in range(0, len(queries), self.batch_size):
            generations += self._write(queries[first : first + self.batch_size])
        return generations

    @torch.inference_mode()
    def _write(self, queries: Sequence[Query]) -> list[Generation]:
        texts = [self._render(query) for query in queries]
        # the chat template has already added the special tokens
        batch = self.tokenizer(
            texts, add_special_tokens=False, padding=True, return_tensors="pt"
        ).to(self.model.device)
        context = getattr(self.model.config, "max_position_embeddings", None)
        for query, length in zip(queries, batch["attention_mask"].sum(1).tolist()):
            if context is not None and length + self.max_new_tokens > context:
                raise UserError(
                    f"{query.key}: a prompt of {length} tokens and --max-new-tokens"
                    f" {self.max_new_tokens}; the model holds {context}. Use fewer or shorter"
                    " snippets, or another model."
                )
        # (queries, prompt + new tokens)
        tokens = self.model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        )
        prompt_length = batch["input_ids"].shape[1]
        return [self._generation(row) for row in tokens[:, prompt_length:].tolist()]

    def _render(self, query: Query) -> str:
        from jinja2.exceptions import TemplateError

        try:
            prompt = self.tokenizer.apply_chat_template(
                query.chat, tokenize=False, add_generation_prompt=True
            )
        except TemplateError as error:
            raise UserError(
                f"{query.key}: the chat template of {self.facts['model']} rejects the prompt"
                f" ({error})."
            ) from error
        assert isinstance(prompt, str)  # tokenize=False
        return prompt

    def _generation(self, tokens: list[int]) -> Generation:
        end = next((index for index, token in enumerate(tokens) if token in self._ends), None)
        text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        assert isinstance(text, str)  # one sequence gives one text
        return Generation(text, "length" if end is None else "stop")


def _choose_precision(asked: str, device: torch.device) -> str:
    """The precision; `auto` is 4bit on a GPU with bitsandbytes, bf16 without it, fp32 on a CPU."""
    missing = [name for name in ("bitsandbytes", "accelerate") if find_spec(name) is None]
    if asked == "auto":
        return "fp32" if device.type != "cuda" else "bf16" if missing else "4bit"
    if asked == "4bit" and device.type != "cuda":
        raise UserError(
            f"--llm-precision 4bit on {device.type}; expected a CUDA device. Use bf16 or fp32."
        )
    if asked == "4bit" and missing:
        raise UserError(
            f"--llm-precision 4bit needs {' and '.join(missing)}: pip install 'openclip_eclip[llm]'"
        )
    return asked


def _load(name: str, precision: str, device: torch.device) -> tuple[Any, PreTrainedTokenizerBase]:
    # Any: the library declares its models without `generate`
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": DTYPES[precision]}
    if precision == "4bit":
        options |= {
            "quantization_config": BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_compute_dtype=DTYPES[precision],
            ),
            "device_map": {"": device},
        }
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, padding_side="left")
        model: Any = AutoModelForCausalLM.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"--llm {name}: transformers cannot load it ({' '.join(str(error).split())[:300]})."
            " Expected the name of an instruct model on the hub, or a folder with config.json,"
            " weights and tokenizer."
        ) from error
    if tokenizer.chat_template is None:
        raise UserError(
            f"--llm {name}: its tokenizer has no chat template; expected an instruct model."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return (model if precision == "4bit" else model.to(device)).eval(), tokenizer


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """All tokens that end a turn: those of the model (one or several) and of the tokenizer."""
    ends = model.generation_config.eos_token_id
    ends = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    return sorted({*ends, tokenizer.eos_token_id} - {None})


def _identity(name: str, model: PreTrainedModel) -> dict[str, Any]:
    """The hub's commit, or a digest of a folder's weight files, by name and content."""
    folder = Path(name)
    if not folder.is_dir():
        return {"commit": getattr(model.config, "_commit_hash", None)}
    digest = hashlib.sha256()
    for path in sorted((*folder.glob("*.safetensors"), *folder.glob("*.bin"))):
        digest.update(f"{path.name} {sha256(path)}\n".encode())
    return {"sha256": digest.hexdigest()}
