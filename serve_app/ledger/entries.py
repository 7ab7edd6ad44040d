"""What is written into the book, and what each entry does to the counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serve_app.ledger.limits import Amount, Balance, Counter, Limit, Payer, check, counters


@dataclass(slots=True)
class Page:
    """What entries are weighed against, read and locked for as long as it takes.

    Attributes:
        states: Of calls that are to be settled, by id.
    """

    limits: Sequence[Limit]
    balances: dict[Counter, Balance]
    states: Mapping[str, str]


class Entry(Protocol):
    @property
    def counters(self) -> list[Counter]:
        """The counters it changes."""
        ...

    def count(self, page: Page) -> None:
        """Change the counters. Raises `BudgetExceeded`, and changes none, if it does not fit."""
        ...


@dataclass(frozen=True, slots=True)
class Opening:
    """A question is let in: one request more.

    Attributes:
        row: Its columns in `answers`, beside those that follow from the rest.
    """

    id: str
    payer: Payer
    moment: float
    deadline: float
    row: Mapping[str, Any]

    @property
    def counters(self) -> list[Counter]:
        return counters(self.payer, self.moment)

    def count(self, page: Page) -> None:
        one = Amount(requests=1)
        check(page.limits, self.payer, self.moment, one, page.balances)
        for key in self.counters:
            page.balances[key].spent += one


@dataclass(frozen=True, slots=True)
class Hold:
    """A model is about to be called, which takes `bound` at most.

    Attributes:
        row: Its columns in `calls`, beside those that follow from the rest.
    """

    id: str
    answer_id: str
    payer: Payer
    moment: float
    deadline: float
    bound: Amount
    row: Mapping[str, Any]

    @property
    def counters(self) -> list[Counter]:
        return counters(self.payer, self.moment)

    def count(self, page: Page) -> None:
        check(page.limits, self.payer, self.moment, self.bound, page.balances)
        for key in self.counters:
            page.balances[key].held += self.bound


@dataclass(frozen=True, slots=True)
class Settlement:
    """A call is over: what it held is free, what it took is spent.

    It counts in the minute, day and month of the hold, whatever the clock says by now.
    """

    hold: Hold
    taken: Amount
    row: Mapping[str, Any]

    @property
    def counters(self) -> list[Counter]:
        return self.hold.counters

    def count(self, page: Page) -> None:
        state = page.states.get(self.hold.id)
        if state not in ("open", "lost"):
            return  # it has been settled: this is a second try, after a commit in doubt
        for key in self.counters:
            if state == "open":
                page.balances[key].held -= self.hold.bound
            page.balances[key].spent += self.taken


@dataclass(frozen=True, slots=True)
class Closing:
    """An answer is over, or what is known of it has changed."""

    id: str
    row: Mapping[str, Any]
    counters: list[Counter] = field(default_factory=list)

    def count(self, page: Page) -> None:
        """Nothing of its own."""
