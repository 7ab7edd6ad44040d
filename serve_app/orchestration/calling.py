"""Calls of a model, each on a bill of its own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from serve_app.domain import Delta, Generation, ModelCall
from serve_app.orchestration.characters import whole
from serve_app.orchestration.hedging import hedged
from serve_app.orchestration.run import Bill, Model, Run

Step = tuple[Bill, Delta]


@dataclass(eq=False)
class Calls:
    """What one step of the graph asks of a model.

    Args:
        model: Who is asked.
        purpose: What for, as the ledger names it.
        hedge_after_s: How long the first of several models may take to speak before the others
            are asked too; `None` asks one at a time.
        beside: What answers is no answer to the caller.
    """

    run: Run
    model: Model
    purpose: str
    hedge_after_s: float | None = None
    beside: bool = False
    _bills: list[Bill] = field(default_factory=list, init=False)

    def steps(self, names: Sequence[str], generation: Generation) -> AsyncGenerator[Step]:
        """The answer's steps, each with the bill that it is on. It ends where that is overdrawn.

        Args:
            names: The models that may answer, as the price table names them; in their order.

        Raises:
            TriviumError: As `Purse.paying` and `Model.generate`.
        """
        if self.hedge_after_s is None or len(names) < 2:
            return self._paid(names, generation)
        return hedged(
            partial(self._paid, names[:1], replace(generation, among="first")),
            partial(self._paid, names[1:], replace(generation, among="others")),
            self.hedge_after_s,
            lambda step: bool(step[1].said),
        )

    async def _paid(self, names: Sequence[str], generation: Generation) -> AsyncGenerator[Step]:
        async with self.run.purse.paying(names, self.purpose, generation) as bill:
            self._bills.append(bill)
            billed = replace(generation, call_id=bill.id)
            answer = whole(self.model.generate(self.run.context, billed))
            async with aclosing(answer) as deltas:
                async for delta in deltas:
                    if delta.lost:
                        await bill.lose(delta.lost)
                    bill.note(delta)
                    yield bill, delta
                    if bill.overdrawn:
                        return

    def note(self, answering: Bill | None, generation: Generation) -> None:
        """Write down on the run what was taken, also where nobody waits for it any more.

        Args:
            answering: The bill of what answered; `None` if nothing did.
        """
        for bill in self._bills:
            for model, usage in bill.lost:
                call = ModelCall(model, self.purpose, usage, generation.adapter)
                self.run.beside.append(call)
            if bill.usage.total_tokens:
                lost = self.beside or (answering is not None and bill is not answering)
                call = ModelCall(bill.model, self.purpose, bill.usage, generation.adapter)
                (self.run.beside if lost else self.run.calls).append(call)
