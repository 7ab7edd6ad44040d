"""The book: what calls may cost is held before they are made, what they did cost is settled after.

Each entry is decided in a transaction of the database, for all processes at once, so no race can
pass a limit; entries that come together share one. What a process left open when it died is
released when its lease is over, which ends soon after the deadline of the request. Leases allow for
clocks that differ from host to host.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial

from sqlalchemy import (
    Connection,
    RowMapping,
    bindparam,
    select,
    update,
)
from sqlalchemy.exc import DataError, IntegrityError, ProgrammingError

from serve_app.database import missing_only
from serve_app.errors import BudgetExceeded, LedgerUnavailable
from serve_app.ledger import tables
from serve_app.ledger.database import Database
from serve_app.ledger.entries import Closing, Entry, Hold, Opening, Page, Settlement
from serve_app.ledger.limits import Amount, Balance, Counter, Limit, Payer
from serve_app.ledger.retention import prune
from serve_app.ledger.statements import COUNTED, amounts, statements

log = logging.getLogger(__name__)

_TOGETHER = 256
_PATIENCE_S = 3.0
_OUTAGE_S = 5.0  # before the next try to tidy, when one has failed
_TIDY_S = 5.0
_PRUNE_S = 3600
_REMEMBERED = 10_000
_PAUSE_S = 0.5

_Waiting = tuple[Entry, asyncio.Future[None]]

# Built once: every answer asks them several times. In one order: no deadlocks.
_counters, _calls = tables.counters.c, tables.calls.c
COUNTERS = (
    select(
        _counters.scope,
        _counters.period,
        _counters.requests,
        _counters.tokens,
        _counters.nanos,
        _counters.held_tokens,
        _counters.held_nanos,
    )
    # Not by pairs, for which SQLite reads the whole table: every scope counts in every period.
    .where(_counters.scope.in_(bindparam("scopes", expanding=True)))
    .where(_counters.period.in_(bindparam("periods", expanding=True)))
    .order_by(_counters.scope, _counters.period)
    .with_for_update()
)
_CALLS = (
    select(_calls.id, _calls.status)
    .where(_calls.id.in_(bindparam("ids", expanding=True)))
    .with_for_update()
)


class Book:
    """Writes entries for one process.

    Args:
        clock: Unix seconds.
        retention_days: What is older is removed now and then; `None` keeps it.
    """

    def __init__(
        self,
        database: Database,
        limits: Sequence[Limit] = (),
        clock: Callable[[], float] = time.time,
        retention_days: int | None = None,
    ) -> None:
        self._database = database
        self.limits = tuple(limits)
        self.clock = clock
        self.retention_days = retention_days
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._there: set[Counter] = set()  # rows of counters that are known to be there
        self._working: list[asyncio.Task[None]] = []  # from the first entry on

    async def close(self) -> None:
        """Write what is left to be written, and let the database go."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await self._waiting.join()
        for task in self._working:
            task.cancel()
        await asyncio.gather(*self._working, return_exceptions=True)
        await self._database.close()

    async def ask(self, entry: Opening | Hold) -> None:
        """Write an entry down before something is done.

        Raises:
            BudgetExceeded: It does not fit into a limit.
            LedgerUnavailable: It could not be written in time. Should it have been all the same,
                its lease releases it.
        """
        written = self._put(entry)
        try:
            async with asyncio.timeout(_PATIENCE_S):
                await written
        except TimeoutError:
            raise LedgerUnavailable("the ledger does not answer; try again shortly") from None

    async def tell(self, entry: Settlement | Closing) -> None:
        """Write down what has been done. Waits a little; it is written even if that is too short.

        Not cut short by the end of the request that it is about.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await asyncio.shield(self._put(entry))

    async def release(self) -> int:
        """End what has outlived its lease; returns how many calls that were."""
        now = self.clock()
        overdue = (tables.calls.c.status == "open") & (tables.calls.c.lease_until < now)

        def find(connection: Connection) -> list[Settlement]:
            found = connection.execute(select(tables.calls).where(overdue).limit(_TOGETHER))
            return [_as_lost(row) for row in found.mappings()]

        count = 0
        while ended := await self._database.read(find):
            await self._database.write(partial(self._commit, entries=ended))
            count += len(ended)
        answers = tables.answers
        unclosed = (answers.c.status == "open") & (answers.c.lease_until < now)
        lost = update(answers).where(unclosed).values(status="lost")
        await self._database.write(lambda connection: connection.execute(lost))
        return count

    def _put(self, entry: Entry) -> asyncio.Future[None]:
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait((entry, written))
        if not self._working or any(task.done() for task in self._working):
            for task in self._working:
                task.cancel()
            self._working = [asyncio.create_task(work()) for work in (self._write, self._tidy)]
        return written

    async def _write(self) -> None:
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < _TOGETHER and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            await self._attempt(batch)
            for _ in batch:
                self._waiting.task_done()

    async def _attempt(self, batch: Sequence[_Waiting]) -> None:
        # Nobody waits any more for those that were asked for and given up.
        batch = [each for each in batch if not each[1].cancelled()]
        try:
            entries = [entry for entry, _ in batch]
            failures = await self._database.write(partial(self._commit, entries=entries))
        except Exception as error:
            # Whatever it is, the next entries must not find nobody here.
            self._there.clear()
            if len(batch) > 1:
                # One that cannot be written must not keep the others from it.
                for each in batch:
                    await self._attempt([each])
            elif batch:
                self._failed(batch[0], error)
            return
        if len(self._there) > _REMEMBERED:
            self._there.clear()
        self._there.update(key for entry, _ in batch for key in entry.counters)
        for (entry, written), failure in zip(batch, failures, strict=True):
            if written.done():
                if isinstance(entry, Hold) and failure is None:
                    # Given up while it was being written: nothing was asked for it.
                    self._put(Settlement(entry, Amount(), {"status": "failed"}))
                continue
            if failure:
                written.set_exception(failure)
            else:
                written.set_result(None)

    def _failed(self, waiting: _Waiting, error: Exception) -> None:
        entry, written = waiting
        log.error("the ledger cannot write a %s: %r", type(entry).__name__, error)
        if isinstance(entry, Opening | Hold):
            if not written.done():
                written.set_exception(LedgerUnavailable("the ledger cannot be written to"))
        elif _hopeless(error):
            if not written.done():
                written.set_result(None)
        else:
            # It has happened, so it is written when the database is back.
            again = partial(self._waiting.put_nowait, waiting)
            asyncio.get_running_loop().call_later(_PAUSE_S, again)

    def _commit(
        self, connection: Connection, entries: Sequence[Entry]
    ) -> list[BudgetExceeded | None]:
        """Write entries down, in their order; says for each why it may not be."""
        page = self._page(connection, entries)
        before = {key: (balance.spent, balance.held) for key, balance in page.balances.items()}
        failures: list[BudgetExceeded | None] = []
        for entry in entries:
            try:
                entry.count(page)
                failures.append(None)
            except BudgetExceeded as error:
                failures.append(error)
        written = [e for e, failure in zip(entries, failures, strict=True) if failure is None]
        for statement, rows in statements(written, page.states):
            connection.execute(statement, rows)
        changed = [
            {"of": key[0], "during": key[1], **amounts(balance)}
            for key, balance in page.balances.items()
            if (balance.spent, balance.held) != before[key]
        ]
        if changed:
            connection.execute(COUNTED, changed)
        return failures

    def _page(self, connection: Connection, entries: Sequence[Entry]) -> Page:
        """Everything the entries change, locked. Always in the same order: no deadlocks."""
        balances: dict[Counter, Balance] = {}
        keys = sorted({key for entry in entries for key in entry.counters})
        unknown = [key for key in keys if key not in self._there]
        while missing := [key for key in keys if key not in balances]:
            if unknown:
                none = amounts(Balance(Amount(), Amount()))
                rows = [{"scope": scope, "period": period, **none} for scope, period in unknown]
                missing_only(connection, tables.counters, rows)
            balances |= _locked(connection, keys)
            # Some that were there are not any more: they were too old, or a backup was put back.
            unknown = missing
        states: dict[str, str] = {}
        if ids := [each.hold.id for each in entries if isinstance(each, Settlement)]:
            found = connection.execute(_CALLS, {"ids": ids})
            states = {call: status for call, status in found}  # noqa: C416  # rows, not pairs
        return Page(self.limits, balances, states)

    async def _tidy(self) -> None:
        # Gateways that start together do not prune together.
        prune_at = time.monotonic() + secrets.randbelow(_PRUNE_S)
        while True:
            try:
                if lost := await self.release():
                    log.warning("%d calls were never settled; what they held is free again", lost)
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + _PRUNE_S
                    if gone := await prune(self._database, self.retention_days, self.clock()):
                        log.info("removed from the ledger, as too old: %s", gone)
            except Exception as error:
                log.error("the ledger cannot be tidied: %r", error)
                # What others could not settle meanwhile they settle first.
                await asyncio.sleep(_OUTAGE_S)
            await asyncio.sleep(_TIDY_S)


def _locked(connection: Connection, keys: Sequence[Counter]) -> dict[Counter, Balance]:
    scopes, periods = (sorted(set(each)) for each in zip(*keys, strict=True))
    found = connection.execute(COUNTERS, {"scopes": scopes, "periods": periods})
    return {
        (scope, period): Balance(
            Amount(requests, tokens, nanos), Amount(0, held_tokens, held_nanos)
        )
        for scope, period, requests, tokens, nanos, held_tokens, held_nanos in found
    }


def _hopeless(error: Exception) -> bool:
    """Whether the entry itself is what cannot be written (SQLSTATE 22, 23, 42)."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    return isinstance(error, DataError | IntegrityError | ProgrammingError) or (
        state[:2] in ("22", "23", "42")
    )


def _as_lost(row: RowMapping) -> Settlement:
    """The end of a call of which nobody knows how it ended."""
    hold = Hold(
        id=row["id"],
        answer_id=row["answer_id"],
        payer=Payer(row["tenant"], row["api_key"]),
        moment=row["started_at"],
        deadline=row["lease_until"],
        bound=Amount(0, row["held_tokens"], row["held_nanos"]),
        row={},
    )
    return Settlement(hold, Amount(), {"status": "lost"})
