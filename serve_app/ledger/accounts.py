"""An answer's account: every model call is paid from it, and it is closed when the answer is over.

What a call may take at most (`bills`) is held before it; what its provider says it took is settled
after, also where that is more: the invoice will say the same, and the next call finds less left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from serve_app.domain import Generation, RequestContext, Usage
from serve_app.errors import (
    DeadlineExceeded,
    InternalError,
    LedgerUnavailable,
    ReplicaDied,
    TriviumError,
)
from serve_app.ledger.bills import Bill
from serve_app.ledger.book import Book
from serve_app.ledger.entries import Closing, Hold, Opening, Settlement
from serve_app.ledger.limits import Amount, Payer
from serve_app.ledger.prices import PriceTable

log = logging.getLogger(__name__)

_MOST_ID = 128  # characters; a provider may send anything


class _Payment:
    """Of one call: each try that may be billed has a hold and a settlement."""

    def __init__(self, accounts: Accounts, bill: Bill, hold: Hold) -> None:
        self._accounts = accounts
        self._bill = bill
        self.hold = hold
        self._settled = False

    async def again(self) -> None:
        """Settle a try that is lost, and hold for the next.

        Raises:
            BudgetExceeded: It does not fit into a limit any more.
        """
        book = self._accounts.book
        following = replace(self.hold, id=uuid.uuid4().hex, moment=book.clock())
        # Both in one transaction: what the lost try did not take may be held for the next.
        await asyncio.gather(self.settle("failed"), book.ask(following))
        self.hold, self._settled = following, False

    async def settle(self, status: str) -> None:
        """Book what a try has taken, once."""
        if self._settled:
            return
        self._settled = True
        bill, prices, usage = self._bill, self._accounts.prices, self._bill.usage
        cost = prices.nanos(bill.model, usage)
        if bill.overclaimed:
            self._overclaimed(usage)
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
        taken = Amount(0, usage.total_tokens, cost)
        await self._accounts.book.tell(Settlement(self.hold, taken, row))

    def _overclaimed(self, usage: Usage) -> None:
        bill = self._bill
        log.error(
            "%s claims %s for call %s, beyond the bound %s: it is booked; what is wrong is set "
            "right by `trivium cost correct`",
            bill.model,
            usage,
            self.hold.id,
            bill.bound,
        )
        self._accounts.overclaimed(bill.model)


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

        Each try that may be billed has a hold and a row of its own; from the second on they are
        asked for when the one before is lost (`Bill.lose`).

        Args:
            models: Which is asked, and those that may answer in its place.

        Raises:
            BudgetExceeded: What it takes at most does not fit into a limit.
            LedgerUnavailable: It cannot be written down, and somebody else would be paid.
        """
        prices, book = self._accounts.prices, self._accounts.book
        metered = any(prices.is_metered(model) for model in models)
        bill = Bill(generation, models, metered=metered)
        if not models:
            yield bill  # nobody is there to be paid, as the call will find out
            return
        if self._id is None:
            if metered:
                raise LedgerUnavailable("the ledger does not answer, so nothing may be bought")
            yield bill
            return
        payment = _Payment(
            self._accounts, bill, self._hold(self._id, bill, models, purpose, generation)
        )
        try:
            await book.ask(payment.hold)
        except LedgerUnavailable:
            if metered:
                raise
            # Our own machines are paid for already.
            log.warning("a call of %s is not in the ledger", models[0])
            yield bill
            return
        bill.again = payment.again
        status = "failed"
        self._purchases += metered
        try:
            yield bill
            status = "ok"
        except (asyncio.CancelledError, GeneratorExit, DeadlineExceeded, ReplicaDied):
            bill.leave()
            raise
        except InternalError:
            raise  # nobody knows how far it came
        except TriviumError:
            # Whoever turned the call away, or was never reached, wants nothing for it.
            self._purchases -= metered and not bill.taken
            raise
        finally:
            await payment.settle(status)

    def _hold(
        self,
        answer_id: str,
        bill: Bill,
        models: Sequence[str],
        purpose: str,
        generation: Generation,
    ) -> Hold:
        prices, book = self._accounts.prices, self._accounts.book
        dearest = max(prices.nanos(model, bill.bound) for model in models)
        adapter = str(generation.adapter) if generation.adapter else None
        return Hold(
            id=bill.id,
            answer_id=answer_id,
            payer=Payer(self._context.tenant, self._context.api_key),
            moment=book.clock(),
            deadline=self._context.deadline,
            bound=Amount(0, bill.bound.total_tokens, dearest),
            row={"model": models[0], "purpose": purpose, "adapter": adapter},
        )

    async def close(self, row: Mapping[str, Any]) -> None:
        """The answer is over. What is said of it a second time is not heard.

        Args:
            row: Its columns in `answers`; always the same ones.
        """
        if self._id is not None and not self._closed:
            self._closed = True
            await self._accounts.book.tell(Closing(self._id, row))


class Accounts:
    """Opens accounts.

    Args:
        overclaimed: Told the model of each call whose provider claims more than was held for it.
    """

    def __init__(
        self,
        book: Book,
        prices: PriceTable,
        overclaimed: Callable[[str], None] = lambda model: None,
    ) -> None:
        self.book = book
        self.prices = prices
        self.overclaimed = overclaimed

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
