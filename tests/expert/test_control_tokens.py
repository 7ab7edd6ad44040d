"""What somebody types ends no turn, on the tokenizer that the expert has and on others."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from serve_app.expert.control_tokens import ControlTokens
from serve_app.expert.examples import read_examples
from serve_app.expert.tokens import encode
from tests.expert.conftest import row, save

PIECES = st.sampled_from(
    [
        "<|im_end|>",
        "<|im_start|>",
        "<|endoftext|>",
        "<|im_",
        "end|>",
        "<",
        "|>",
        "\n",
        "system\n",
        " ",
    ]
)
# Of some control characters this tokenizer has no bytes.
WORDS = st.text(st.characters(exclude_categories=["C"]), max_size=4)
TYPED = st.lists(PIECES | WORDS, max_size=8).map("".join)


def asked(*contents: str) -> list[dict[str, Any]]:
    roles = ("system", "user", "assistant", "user")
    return [{"role": roles[i % 4], "content": text} for i, text in enumerate(contents)]


def prompt_of(tokenizer: Any, messages: list[dict[str, Any]]) -> list[int]:
    control = ControlTokens.of(tokenizer)
    text = tokenizer.apply_chat_template(
        control.turns(messages), tokenize=False, add_generation_prompt=True
    )
    return control.encoded(tokenizer, text)


@given(st.lists(TYPED, min_size=1, max_size=4))
def test_typed_control_tokens_are_text_and_nothing_is_lost(
    tokenizer: Any, contents: list[str]
) -> None:
    messages = asked(*contents)
    tokens = prompt_of(tokenizer, messages)
    structure = Counter(each for each in tokens if each in tokenizer.all_special_ids)
    empty = prompt_of(tokenizer, asked(*["x" for _ in contents]))
    assert structure == Counter(each for each in empty if each in tokenizer.all_special_ids)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(tokens, clean_up_tokenization_spaces=False) == text


@given(st.lists(st.text(max_size=40), min_size=1, max_size=4))
def test_ordinary_prompts_have_the_tokens_that_they_always_had(
    tokenizer: Any, contents: list[str]
) -> None:
    messages = asked(*contents)
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert prompt_of(tokenizer, messages) == tokenizer(text)["input_ids"]


TEMPLATE = "{% for m in messages %}<s>{{ m.content | trim }}<think></think></s>{% endfor %}"


@pytest.fixture(scope="module")
def other() -> Any:
    """By characters; with tokens that are special, that a template writes, and neither."""
    letters = [chr(i) for i in range(33, 127)] + [" "]
    core = Tokenizer(models.WordLevel({each: i for i, each in enumerate(letters)}, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    made.add_tokens(
        [AddedToken(each) for each in ("<think>", "</think>", "    ", "<s><s>", "<h1>")]
    )
    made.chat_template = TEMPLATE
    return made


@pytest.mark.parametrize(
    "typed", ["<s>", "a</s><s>b", "<s><s>", "<<s>s>", "<think>x</think>", "</s", "<s", "s>"]
)
def test_of_other_tokenizers_too_what_is_typed_is_text(other: Any, typed: str) -> None:
    tokens = prompt_of(other, [{"role": "user", "content": typed}])
    names = other.convert_ids_to_tokens(tokens)
    structure = ["<s>", *typed, "<think>", "</think>", "</s>"]
    assert names == structure


def test_tokens_that_structure_nothing_are_left_whole(other: Any) -> None:
    tokens = prompt_of(other, [{"role": "user", "content": "a    b<h1>"}])
    names = other.convert_ids_to_tokens(tokens)
    assert names[1:-3] == ["a", "    ", "b", "<h1>"]


def test_a_tokenizer_without_control_tokens_cuts_nothing() -> None:
    assert ControlTokens(["a", " ", "\n\n"]).marked("a \n\n") == "a \n\n"


@pytest.mark.parametrize("typed", ["<|", "<|im_end|>", "text "])
def test_long_contents_take_no_time(typed: str) -> None:
    reserved = [f"<|reserved_special_token_{number}|>" for number in range(256)]
    control = ControlTokens(["<|im_end|>", "<|begin_of_text|>", *reserved])
    text = typed * (500_000 // len(typed))
    began = time.process_time()
    assert "".join(control.pieces(control.marked(text))) == text
    assert time.process_time() - began < 5


def test_in_training_rows_they_are_text_too(tokenizer: Any, tmp_path: Path) -> None:
    made = row("Say <|im_end|>", "Here: <|im_end|>")
    (example,) = read_examples(save(tmp_path / "rows.jsonl", [made]))
    (encoded,) = encode(tokenizer, [example], 1000)
    learned = encoded.ids[encoded.learned].tolist()
    assert learned.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(learned) == "Here: <|im_end|><|im_end|>"


def test_the_engine_itself_reads_them_as_text(tiny: Path, tokenizer: Any) -> None:
    import asyncio

    from vllm.config import ModelConfig, VllmConfig
    from vllm.renderers.params import ChatParams
    from vllm.renderers.registry import RENDERER_REGISTRY, renderer_from_config

    from serve_app.expert import rendering

    before = dict(RENDERER_REGISTRY.renderers)
    try:
        rendering.install()
        config = VllmConfig(model_config=ModelConfig(model=str(tiny), dtype="float32"))
        renderer = renderer_from_config(config)
    finally:
        RENDERER_REGISTRY.renderers.update(before)
    assert isinstance(renderer, rendering.TextRenderer)
    params = ChatParams(chat_template_kwargs={"add_generation_prompt": True, "tokenize": False})

    def tokens_of(content: str) -> list[int]:
        messages = [{"role": "user", "content": content}]
        (_, (whole,)) = renderer.render_chat([messages], params)

        async def later() -> Any:
            return await renderer.render_chat_async([messages], params)

        (_, (awaited,)) = asyncio.run(later())
        assert awaited["prompt_token_ids"] == whole["prompt_token_ids"]
        return list(whole["prompt_token_ids"])

    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ordinary = tokens_of("A B")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "A B"}], tokenize=False, add_generation_prompt=True
    )
    assert ordinary == tokenizer(text)["input_ids"]
    typed = tokens_of("A <|im_end|> B")
    assert typed.count(end) == ordinary.count(end)
    # Each of its pieces counts, where the control token would be one.
    assert len(typed) > len(ordinary) + 3
