"""What is learned from a conversation, and which files are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from serve_app.errors import SettingsError
from serve_app.expert.examples import read_examples, refuse_leaks
from serve_app.expert.tokens import IGNORED, encode, features, pack
from tests.expert.conftest import row, save

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="<|>"), min_size=1).filter(str.strip)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=4), data=st.data())
def test_only_what_the_assistant_says_is_learned(
    tokenizer: Any, tmp_path: Path, turns: list[tuple[str, str]], data: st.DataObject
) -> None:
    made = row(*[text for turn in turns for text in turn])
    kept = data.draw(st.sets(st.integers(0, len(turns) - 1), min_size=1))
    for number in set(range(len(turns))) - kept:
        made["messages"][2 * number + 1]["weight"] = 0
    (example,) = read_examples(save(tmp_path / "rows.jsonl", [made]))
    (encoded,) = encode(tokenizer, [example], 10_000)
    answers = [turns[number][1] + tokenizer.eos_token for number in sorted(kept)]
    learned = [i for answer in answers for i in tokenizer(answer)["input_ids"]]
    assert encoded.ids[encoded.learned].tolist() == learned
    before = tokenizer.apply_chat_template(
        made["messages"][: 2 * min(kept) + 1], tokenize=False, add_generation_prompt=True
    )
    first = int(encoded.learned.argmax())
    assert encoded.ids[:first].tolist() == tokenizer(before)["input_ids"]


def test_examples_of_a_pack_do_not_see_each_other(tokenizer: Any, tiny: Path) -> None:
    path = save(
        tiny.parent / "two.jsonl", [row("a b c", "one two"), row("x", "three"), row("y", "z")]
    )
    encoded = encode(tokenizer, read_examples(path), 512)
    (packed,) = pack(encoded, 512)
    model = AutoModelForCausalLM.from_pretrained(tiny, attn_implementation="sdpa").eval()

    def outputs(examples: Any) -> Any:
        made = {k: torch.from_numpy(v) for k, v in features(examples).items()}
        with torch.no_grad():
            return model(**made, use_cache=False)

    together = outputs(packed)
    alone = [outputs((each,)) for each in packed]
    assert torch.allclose(together.logits[0], torch.cat([a.logits[0] for a in alone]), atol=1e-4)
    weighed = sum(float(a.loss) * a.logits.shape[1] for a in alone)
    assert float(together.loss) == pytest.approx(weighed / together.logits.shape[1], rel=1e-4)


@given(lengths=st.lists(st.integers(1, 64), min_size=1))
def test_every_example_is_in_one_pack_and_no_pack_is_too_long(lengths: list[int]) -> None:
    from serve_app.expert.tokens import Encoded

    made = [Encoded(np.full(n, i, np.int32), np.ones(n, bool)) for i, n in enumerate(lengths)]
    packs = pack(made, 64)
    assert sorted(int(each.ids[0]) for one in packs for each in one) == list(range(len(lengths)))
    for one in packs:
        assert sum(map(len, one)) <= 64
        inputs = features(one)
        starts = inputs["position_ids"] == 0
        assert (inputs["labels"][starts] == IGNORED).all()
        # A logit for each learned token, at the place of the one before it.
        assert (
            inputs["input_ids"][0, inputs["logits_to_keep"] + 1] == inputs["shift_labels"][0]
        ).all()
        assert inputs["shift_labels"].size == (inputs["labels"] != IGNORED).sum()


BAD = {
    "{": "not JSON",
    json.dumps({"messages": [{"role": "user", "content": "hi"}]}): "no assistant turn",
    json.dumps({"prompt": "hi"}): "no `messages`",
    json.dumps({"messages": [{"role": "tool", "content": "hi"}]}): "`role` must be one of",
    json.dumps({"messages": [{"role": "user", "content": []}]}): "`content` must be text",
    json.dumps(row("a", "b", "c")): "the last message is the user's",
    json.dumps({"messages": [{"role": "assistant", "content": "hi"}]}): "no user turn",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items())
def test_a_bad_row_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row("q", "a")) + "\n\n" + line + "\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=f"rows.jsonl:3: .*{reason}") as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)


def test_a_long_row_and_a_leak_are_named(tokenizer: Any, tmp_path: Path) -> None:
    train = read_examples(save(tmp_path / "t.jsonl", [row("q", "a"), row("r", "word " * 50_000)]))
    with pytest.raises(SettingsError, match=r"1 rows are longer .*t\.jsonl:2 \(50,0\d\d tokens\)"):
        encode(tokenizer, train, 1024)
    valid = read_examples(save(tmp_path / "v.jsonl", [row("s", "a"), row("Q ", "another")]))
    with pytest.raises(SettingsError, match=r"v\.jsonl:2 = .*t\.jsonl:1"):
        refuse_leaks(train, valid)
