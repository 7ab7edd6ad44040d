"""A bill: what one call of a model may take, known before it, and what it has taken so far.

A call's tokens are at most the bytes of its prompt (no tokenizer makes two tokens of one byte), its
pictures by the providers' published formulas, and the bound on its answer. So much is held. What
the provider says it took is what will be invoiced, so it is booked as it is said, also above that.
"""

from __future__ import annotations

import json
import math
import time
import uuid
from collections.abc import Awaitable, Callable, Sequence

from serve_app.domain import BYTES_A_TOKEN, Delta, Generation, Image, Lost, Usage
from serve_app.ledger.vision import most_tokens

# What a chat template puts around a message, and around them all: a default system message too.
_TOKENS_A_MESSAGE, _TOKENS_A_PROMPT = 16, 128
# What a provider adds of its own where there are tools, or where JSON is asked for: Anthropic
# publishes 159 to 530 tokens by model (docs.anthropic.com/en/docs/tool-use-pricing-and-tokens).
_TOKENS_OF_TOOLS = 1024
_FORMS = {"tools", "response_format"}
# OpenAI's Responses takes no lower bound on an answer than this.
_FEWEST_OF_AN_ANSWER = 16
_MOST_BYTES_A_TOKEN = 32  # on average: a single one may have more
# No call takes so many. The cost of them still fits into the columns of the ledger.
_MOST_CLAIMED = 10**12
# A model that is cut off before it was counted has thought since it was asked, at a pace that few
# reach: nobody invoices more than it can have written.
_THOUGHT_A_SECOND = 250


class Bill:
    """What one call of a model has taken so far.

    Args:
        models: The one that is asked, and those that may answer in its place.
        metered: Whether somebody else sends a bill for it, thoughts included.
        clock: Seconds.
    """

    def __init__(
        self,
        generation: Generation,
        models: Sequence[str] = (),
        *,
        metered: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.model = models[0] if models else ""
        self._metered = metered
        self._clock = clock
        messages = generation.messages
        calls = [call for message in messages for call in message.tool_calls]
        said = [*(m.content for m in messages), *(c.name + c.arguments for c in calls)]
        options = json.dumps(dict(generation.options), default=str) if generation.options else ""
        size = sum(len(text.encode()) for text in (*said, options))
        shown = [part for m in messages for part in m.parts if isinstance(part, Image)]
        pictures = sum(most_tokens(each, models) for each in shown)
        around = _TOKENS_A_MESSAGE * len(said) + _TOKENS_A_PROMPT
        most = self._asked = generation.max_tokens
        if metered and most:
            most = max(most, _FEWEST_OF_AN_ANSWER)
            around += _TOKENS_OF_TOOLS if _FORMS & generation.options.keys() else 0
        self.bound = Usage(prompt_tokens=size + around + pictures, completion_tokens=most)
        # For a call that broke off before it was counted: of pictures, half of the most.
        self._guess = Usage(size // BYTES_A_TOKEN + pictures // 2, most)
        self.lost: list[tuple[str, Usage]] = []  # what earlier tries took, and of which model
        self.again: Callable[[], Awaitable[None]] | None = None  # holds for the next try
        self._begin()

    def _begin(self) -> None:
        self.id = uuid.uuid4().hex
        self.provider_id: str | None = None
        self._left = False
        self._begun_at = self._clock()
        self._silent_s: float | None = None  # before its first word
        self._answered = False
        self._pieces = 0
        self._size = 0
        self._told: Usage | None = None

    def note(self, delta: Delta) -> None:
        """One more step of the answer."""
        said = delta.said
        if said or delta.finish_reason:
            self._break_silence()
            self._answered = True
        self._pieces += bool(said)
        self._size += len(said.encode())
        if delta.usage and _credible(delta.usage):
            self._told = delta.usage
        self.model = delta.model or self.model
        self.provider_id = delta.provider_id or self.provider_id

    def leave(self) -> None:
        """It was left, by us or by its provider, while it was at work."""
        self._left = True
        self._break_silence()

    def _break_silence(self) -> None:
        if self._silent_s is None:
            self._silent_s = self._clock() - self._begun_at

    async def lose(self, tries: Sequence[Lost]) -> None:
        """Tries broke off; each is paid for by itself.

        Raises:
            BudgetExceeded: The next one does not fit into a limit any more.
        """
        for each in tries:
            self.model = each.model or self.model
            self.leave()
            if each.again:
                took = (self.model, self.usage)
                if self.again:
                    await self.again()
                self.lost.append(took)
                self._begin()

    @property
    def overdrawn(self) -> bool:
        """Whether the answer has surely passed the bound that was asked for: take no more of it."""
        most = self._asked
        counted = self._told.completion_tokens if self._told else 0
        return counted > most or self._size > most * _MOST_BYTES_A_TOKEN

    @property
    def overclaimed(self) -> bool:
        """Whether its provider says that it took more than was held for it."""
        told, bound = self._told or Usage(), self.bound
        return (
            told.prompt_tokens > bound.prompt_tokens
            or told.completion_tokens > bound.completion_tokens
        )

    @property
    def estimated(self) -> bool:
        """Whether it was at work, or has answered, and nobody has counted it."""
        return self._told is None and (self._left or self._answered)

    @property
    def taken(self) -> bool:
        """Whether anything has to be paid for, of any of its tries."""
        return bool(self.lost or self.usage.total_tokens)

    @property
    def usage(self) -> Usage:
        """What it took, as its provider says; estimated where it does not; nothing if refused."""
        if self._told is not None:
            told = self._told
            cached = min(told.cached_tokens, told.prompt_tokens)
            reasoning = min(told.reasoning_tokens, told.completion_tokens)
            return Usage(told.prompt_tokens, told.completion_tokens, cached, reasoning)
        if not self.estimated:
            return Usage()
        # A piece is a token, or a few.
        said = max(self._pieces, self._size // BYTES_A_TOKEN)
        thought = self._thought if self._metered else 0
        completion = min(said + thought, self._guess.completion_tokens)
        return Usage(self._guess.prompt_tokens, completion, 0, min(thought, completion))

    @property
    def _thought(self) -> int:
        """Tokens that nobody has seen: what it can have written while it said nothing."""
        silent = self._silent_s
        if silent is None:
            silent = self._clock() - self._begun_at
        return math.ceil(silent * _THOUGHT_A_SECOND)


def _credible(claim: Usage) -> bool:
    """Whether these are numbers of tokens at all; servers send anything."""
    counts = (
        claim.prompt_tokens,
        claim.completion_tokens,
        claim.cached_tokens,
        claim.reasoning_tokens,
    )
    return all(type(each) is int and 0 <= each <= _MOST_CLAIMED for each in counts)
