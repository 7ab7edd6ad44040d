"""Requests that are no questions: searches, documents, decisions, usage, feedback.

Each needs its scope, a place and room in the limits on requests, and what it takes is booked.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from fastapi import Request

from serve_app.domain import Delta, Generation, Message, RequestContext, Usage
from serve_app.gateway.access import Admission, Principal
from serve_app.gateway.callers import context_of
from serve_app.ledger.accounts import Account, Accounts
from serve_app.ledger.tables import SERVED
from serve_app.telemetry import tracing


@dataclass(frozen=True, slots=True)
class Visit:
    """A request that was let in.

    Attributes:
        account: Pays for what models do for it.
        embeds: The embedding model's name in the price table.
    """

    context: RequestContext
    account: Account
    embeds: str

    @contextlib.asynccontextmanager
    async def embedding(self, texts: Sequence[str]) -> AsyncIterator[Embedding]:
        """Around what embeds texts, at most.

        Raises:
            BudgetExceeded: It does not fit into a limit.
        """
        asked = Generation(tuple(Message("user", text) for text in texts), max_tokens=0)
        took = Embedding(sum(len(text.encode()) for text in texts))
        async with self.account.paying([self.embeds], "embed", asked) as bill:
            yield took
            bill.note(Delta(usage=Usage(took.tokens)))


@dataclass(slots=True)
class Embedding:
    """What an embedding model has read.

    Attributes:
        most: Tokens that it may have been; no tokenizer makes two of one byte.
    """

    most: int
    tokens: int = 0

    def read(self, tokens: int) -> None:
        """It was so many tokens."""
        self.tokens = min(tokens, self.most)


class Metering:
    """Lets requests in. They have places of their own: however many search, questions are answered.

    Args:
        places: How many are served at once.
        embeds: The embedding model's name in the price table.
    """

    def __init__(self, accounts: Accounts, places: int, timeout_s: float, embeds: str) -> None:
        self._accounts = accounts
        self._admission = Admission(places)
        self._timeout_s = timeout_s
        self._embeds = embeds

    @contextlib.asynccontextmanager
    async def visit(
        self, request: Request, caller: Principal, *scopes: str
    ) -> AsyncIterator[Visit]:
        """Around the work for a request.

        Raises:
            PermissionDenied: The key has none of the scopes.
            Overloaded: Every place is taken.
            BudgetExceeded: There have been too many requests.
        """
        caller.require(*scopes)
        context = context_of(request, caller, self._timeout_s)
        with self._admission.admitted():
            path = request.scope["route"].path
            account = await self._accounts.open(context, path, tracing.trace_id())
            request.state.purse = account
            status = "failed"
            try:
                yield Visit(context, account, self._embeds)
                status = SERVED
            finally:
                await account.close({"status": status})
