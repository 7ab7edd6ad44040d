"""An answer's account: every model call is paid from it, and it is closed when the answer is over.

What a call takes at most is known before it: its tokens are at most the bytes of its prompt (no
tokenizer makes two tokens of one byte) and the bound on its answer. So much is held, and what the
provider says it took is settled, up to that; what a provider says beyond is not believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain import BYTES_A_TOKEN, Delta, Generation, Image, RequestContext, Usage
from serve_app.errors import (
    DeadlineExceeded,
    FrontierNotConfigured,
    FrontierRefused,
    FrontierResting,
    InvalidRequest,
    LedgerUnavailable,
    Overloaded,
)
from serve_app.ledger.book import Book
from serve_app.ledger.entries import Closing, Hold, Opening, Settlement
from serve_app.ledger.limits import Amount, Payer
from serve_app.ledger.prices import PriceTable

log = logging.getLogger(__name__)

# What a chat template puts around a message, and around them all: a default system message too.
_TOKENS_A_MESSAGE, _TOKENS_A_PROMPT = 16, 128
# Of the models that look closest: OpenAI's count up to 1,536 patches times 2.46, Anthropic's 4,784.
_TOKENS_A_PICTURE = 8192
_MOST_BYTES_A_TOKEN = 32  # on average: a single one may have more
# Who fails so has turned the call away, or nobody was asked.
_NOT_BOUGHT = (FrontierNotConfigured, FrontierRefused, FrontierResting, Overloaded, InvalidRequest)
_MOST_ID = 128  # characters; a provider may send anything


class Bill:
    """What one call of a model has taken so far.

    Args:
        model: Which is asked; another one may answer.
    """

    def __init__(self, generation: Generation, model: str = "") -> None:
        self.id = uuid.uuid4().hex
        self.model = model
        self.provider_id: str | None = None
        messages = generation.messages
        calls = [call for message in messages for call in message.tool_calls]
        said = [*(m.content for m in messages), *(c.name + c.arguments for c in calls)]
        options = json.dumps(dict(generation.options), default=str) if generation.options else ""
        size = sum(len(text.encode()) for text in (*said, options))
        pictures = sum(isinstance(part, Image) for m in messages for part in m.parts)
        around = _TOKENS_A_MESSAGE * len(said) + _TOKENS_A_PROMPT
        self.bound = Usage(
            prompt_tokens=size + around + _TOKENS_A_PICTURE * pictures,
            completion_tokens=generation.max_tokens,
        )
        # For a call that broke off before it was counted: a picture, half of what it takes at most.
        self._guess = size // BYTES_A_TOKEN + _TOKENS_A_PICTURE * pictures // 2
        self.left = False  # by us, while it was at work
        self._pieces = 0
        self._size = 0
        self._told: Usage | None = None

    def note(self, delta: Delta) -> None:
        """One more step of the answer."""
        self._pieces += bool(delta.said)
        self._size += len(delta.said.encode())
        self._told = delta.usage or self._told
        self.model = delta.model or self.model
        self.provider_id = delta.provider_id or self.provider_id

    @property
    def overdrawn(self) -> bool:
        """Whether the answer has surely passed its bound, so that no more of it should be taken."""
        most = self.bound.completion_tokens
        counted = self._told.completion_tokens if self._told else 0
        return counted > most or self._size > most * _MOST_BYTES_A_TOKEN

    @property
    def estimated(self) -> bool:
        """Whether it broke off when it was at work, so that nobody has counted it."""
        return self._told is None and (self.left or self._pieces > 0)

    @property
    def usage(self) -> Usage:
        """What it took, within its bound; nothing if it was refused."""
        if self._told is None:
            if not self.estimated:
                return Usage()
            # A piece is a token, or a few.
            said = max(self._pieces, self._size // BYTES_A_TOKEN)
            return _within(Usage(self._guess, said), self.bound)
        taken = _within(self._told, self.bound)
        if taken != self._told:
            log.error("a model claims what it cannot have taken: %s, not %s", self._told, taken)
        return taken


class Account:
    """Of one answer."""

    def __init__(self, accounts: Accounts, context: RequestContext, answer_id: str | None) -> None:
        self._accounts = accounts
        self._context = context
        self._id = answer_id
        self._closed = False
        self._purchases = 0

    @property
    def bought(self) -> bool:
        """Whether a provider may want money for something of it: the same again may cost again."""
        return self._purchases > 0

    @property
    def written(self) -> bool:
        """Whether the ledger knows of it; else it could not be reached."""
        return self._id is not None

    @contextlib.asynccontextmanager
    async def paying(
        self, models: Sequence[str], purpose: str, generation: Generation
    ) -> AsyncIterator[Bill]:
        """Around a call of a model, whose deltas are noted on the bill.

        Args:
            models: Which is asked, and those that may answer in its place.

        Raises:
            BudgetExceeded: What it takes at most does not fit into a limit.
            LedgerUnavailable: It cannot be written down, and somebody else would be paid.
        """
        bill = Bill(generation, models[0] if models else "")
        if not models:
            yield bill  # nobody is there to be paid, as the call will find out
            return
        prices, book = self._accounts.prices, self._accounts.book
        if self._id is None:
            if any(prices.is_metered(model) for model in models):
                raise LedgerUnavailable("the ledger does not answer, so nothing may be bought")
            yield bill
            return
        adapter = str(generation.adapter) if generation.adapter else None
        hold = Hold(
            id=bill.id,
            answer_id=self._id,
            payer=Payer(self._context.tenant, self._context.api_key),
            moment=book.clock(),
            deadline=self._context.deadline,
            bound=Amount(
                0,
                bill.bound.total_tokens,
                max(prices.nanos(model, bill.bound) for model in models),
            ),
            row={"model": models[0], "purpose": purpose, "adapter": adapter},
        )
        try:
            await book.ask(hold)
        except LedgerUnavailable:
            if any(prices.is_metered(model) for model in models):
                raise
            # Our own machines are paid for already.
            log.warning("a call of %s is not in the ledger", models[0])
            yield bill
            return
        status = "failed"
        metered = any(prices.is_metered(model) for model in models)
        self._purchases += metered
        try:
            yield bill
            status = "ok"
        except _NOT_BOUGHT:
            self._purchases -= metered
            raise
        except (asyncio.CancelledError, GeneratorExit, DeadlineExceeded):
            bill.left = True
            raise
        finally:
            usage = bill.usage
            cost = prices.nanos(bill.model, usage)
            row = {
                "status": status,
                "model": bill.model,
                "provider_id": bill.provider_id and bill.provider_id[:_MOST_ID],
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "completion_tokens": usage.completion_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
                "estimated": bill.estimated,
                "cost_nanos": cost,
                "machine_seconds": prices.machine_seconds(bill.model, usage),
            }
            await book.tell(Settlement(hold, Amount(0, usage.total_tokens, cost), row))

    async def close(self, row: Mapping[str, Any]) -> None:
        """The answer is over. What is said of it a second time is not heard.

        Args:
            row: Its columns in `answers`; always the same ones.
        """
        if self._id is not None and not self._closed:
            self._closed = True
            await self._accounts.book.tell(Closing(self._id, row))


class Accounts:
    """Opens accounts."""

    def __init__(self, book: Book, prices: PriceTable) -> None:
        self.book = book
        self.prices = prices

    async def open(
        self, context: RequestContext, asked_model: str, trace_id: str | None
    ) -> Account:
        """One for a question that is let in.

        With the ledger out of reach the account is not written, and pays for nothing but models of
        our own.

        Raises:
            BudgetExceeded: There have been too many requests.
        """
        answer_id = uuid.uuid4().hex
        opening = Opening(
            id=answer_id,
            payer=Payer(context.tenant, context.api_key),
            moment=self.book.clock(),
            deadline=context.deadline,
            row={
                "request_id": context.request_id,
                "asked_model": asked_model,
                "trace_id": trace_id,
                "degraded": "",
            },
        )
        try:
            await self.book.ask(opening)
        except LedgerUnavailable:
            return Account(self, context, None)
        return Account(self, context, answer_id)


def _within(usage: Usage, bound: Usage) -> Usage:
    prompt = min(max(0, usage.prompt_tokens), bound.prompt_tokens)
    completion = min(max(0, usage.completion_tokens), bound.completion_tokens)
    return replace(
        usage,
        prompt_tokens=prompt,
        completion_tokens=completion,
        cached_tokens=min(max(0, usage.cached_tokens), prompt),
        reasoning_tokens=min(max(0, usage.reasoning_tokens), completion),
    )
