"""Examples as tokens: which of them are learned, and how short ones share a pack.

A pack is one row of the model's input that holds several examples end to end. Each starts at
position 0, from which transformers makes an attention mask that is causal within an example and
blocks everything between two of them: nothing of one reaches the other, on any attention backend
that takes a mask.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.errors import SettingsError
from serve_app.expert.control_tokens import ControlTokens
from serve_app.expert.examples import Example, listed

IGNORED = -100  # the label of a token that is not learned, in all of torch

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """An example's tokens.

    Attributes:
        ids: Shape (tokens,).
        learned: Shape (tokens,), true where the token belongs to an answer that is learned.
    """

    ids: npt.NDArray[np.int32]
    learned: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


Pack = tuple[Encoded, ...]


def encode(tokenizer: Any, examples: Sequence[Example], max_tokens: int) -> list[Encoded]:
    """Every example under the model's own chat template.

    Args:
        tokenizer: Of transformers, with a chat template.

    Raises:
        SettingsError: Examples are longer than `max_tokens`, or the template renders a
            conversation other than as its beginning and the rest.
    """
    control = ControlTokens.of(tokenizer)
    encoded = [_encode(tokenizer, control, example) for example in examples]
    long = [
        f"{example.place} ({len(each):,} tokens)"
        for example, each in zip(examples, encoded, strict=True)
        if len(each) > max_tokens
    ]
    if long:
        raise SettingsError(
            f"{len(long)} rows are longer than --max-tokens {max_tokens}: {listed(long)}; "
            "shorten or remove them, or raise --max-tokens"
        )
    return encoded


def pack(examples: Sequence[Encoded], size: int) -> list[Pack]:
    """Examples in as few packs of at most `size` tokens as best-fit decreasing finds."""
    packs: list[list[Encoded]] = []
    rooms: list[tuple[int, int]] = []  # what is free in each pack, ascending, and which pack it is
    for example in sorted(examples, key=len, reverse=True):
        at = bisect_left(rooms, (len(example), 0))
        if at < len(rooms):
            room, number = rooms.pop(at)
        else:
            room, number = size, len(packs)
            packs.append([])
        packs[number].append(example)
        insort(rooms, (room - len(example), number))
    return [tuple(each) for each in packs]


def features(examples: Pack) -> dict[str, Ints]:
    """What the model takes for a pack: a batch of one row.

    Logits are made only where the next token is learned (`logits_to_keep`, `shift_labels`): over
    a vocabulary of 49,152 each costs a small model as much as a quarter of all its layers.
    """
    ids = np.concatenate([each.ids for each in examples]).astype(np.int64)
    learned = np.concatenate([each.learned for each in examples])
    positions = np.concatenate([np.arange(len(each)) for each in examples])
    # An example's first token would be predicted from the one before it, another example's last.
    labels = np.where(learned & (positions > 0), ids, IGNORED)
    kept = np.flatnonzero(labels != IGNORED) - 1
    return {
        "input_ids": ids[None],
        "labels": labels[None],
        "position_ids": positions[None],
        "logits_to_keep": kept,
        "shift_labels": labels[None, kept + 1],
    }


def _encode(tokenizer: Any, control: ControlTokens, example: Example) -> Encoded:
    """Tokens of the text between answers and of each answer, made apart as in generation."""
    segments: list[tuple[str, bool]] = []
    done = ""
    for index in example.learned:
        asked = _rendered(tokenizer, control, example, index, prompt=True)
        answered = _rendered(tokenizer, control, example, index + 1)
        if not (asked.startswith(done) and answered.startswith(asked)):
            raise SettingsError(
                f"{example.place}: the base model's chat template renders earlier turns anew when "
                "a later one comes, so its answers cannot be told apart; split the row into "
                "one row for each answer"
            )
        answer = answered[len(asked) :]
        # What the template puts after the end of the turn, the model never has to write.
        end = answer.rfind(tokenizer.eos_token) if tokenizer.eos_token else -1
        length = len(asked) + (end + len(tokenizer.eos_token) if end >= 0 else len(answer))
        segments += [(asked[len(done) :], False), (answered[len(asked) : length], True)]
        done = answered[:length]
    parts = [control.encoded(tokenizer, text) for text, _ in segments]
    return Encoded(
        ids=np.array([i for ids in parts for i in ids], dtype=np.int32),
        learned=np.repeat([learned for _, learned in segments], [len(ids) for ids in parts]),
    )


def _rendered(
    tokenizer: Any, control: ControlTokens, example: Example, count: int, *, prompt: bool = False
) -> str:
    """The first `count` messages as text; with `prompt`, up to where the answer begins."""
    messages = [
        # As in serving: templates of small models know no developer role.
        {"role": "system" if m.role == "developer" else m.role, "content": m.content}
        for m in example.messages[:count]
    ]
    messages = control.turns(messages)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    except Exception as error:  # a template raises what it likes
        raise SettingsError(
            f"{example.place}: the base model's chat template refuses it: {error}"
        ) from None
    return str(text)
