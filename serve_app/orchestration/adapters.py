"""Answers through an adapter: which one, in what form, and what is said when the form is broken.

The engine enforces what it can of a contract while it decodes. An answer that it enforces wholly is
streamed; any other is held back until it is checked. A caller's own `response_format` goes before
the contract, which then asks nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from serve_app.domain import Decision, FormatOutcome, Message, Route
from serve_app.errors import FormatBroken
from serve_app.orchestration.run import Adapter, Adapters, Contract, Question

_MOST_TOLD = 8  # violations: a small model follows a short list


class NoAdapters:
    """The base alone."""

    def current(self, name: str) -> Adapter | None:
        return None


def chosen(decision: Decision, adapters: Adapters) -> Adapter | None:
    """The adapter whose task this is: declared as an intent of its name, and the likeliest.

    `None` when the expert's base is likelier, or nobody declared such an intent.
    """
    if decision.route is not Route.EXPERT:
        return None
    likely = [
        (share, adapter)
        for name, share in decision.fit.items()
        if (adapter := adapters.current(name))
    ]
    share, adapter = max(likely, key=lambda each: each[0], default=(0.0, None))
    return adapter if share > decision.fit.get(Route.EXPERT, 0.0) else None


@dataclass(frozen=True, slots=True)
class Through:
    """How the expert is asked through an adapter.

    Attributes:
        contract: What holds for the answer; `None` when nothing was promised or the caller decides.
        draft: What it answered before, if that broke the contract in the ways of `violations`.
    """

    adapter: Adapter
    contract: Contract | None
    draft: str = ""
    violations: Sequence[str] = ()

    @classmethod
    def of(
        cls, adapter: Adapter, question: Question, draft: str, violations: Sequence[str]
    ) -> Through:
        own = question.in_json
        return cls(adapter, None if own else adapter.contract, draft, violations)

    @property
    def held(self) -> bool:
        """Whether the answer must be checked before it is sent."""
        return self.contract is not None and not self.contract.complete

    @property
    def options(self) -> dict[str, Any]:
        structured = self.contract and self.contract.structured
        return {"structured_outputs": structured} if structured else {}

    @property
    def turns(self) -> tuple[Message, ...]:
        """What follows the conversation: the broken answer, and what is wrong with it."""
        if not self.violations:
            return ()
        wrong = "\n".join(f"- {each}" for each in self.violations[:_MOST_TOLD])
        told = f"This breaks the required format:\n{wrong}\nWrite it again, whole and corrected."
        return (Message("assistant", self.draft), Message("user", told))

    def outcome(self, text: str, finish_reason: str) -> FormatOutcome | None:
        """How an answer kept the contract; `None` when there is none."""
        if self.contract is None:
            return None
        if not self.contract.violations(text):
            return "repaired" if self.violations else "kept"
        # Cut off by its bound on tokens, as the finish reason says: no repair makes room.
        return "cut" if finish_reason == "length" else "broken"

    def broken(self, violations: Sequence[str]) -> FormatBroken:
        return FormatBroken(
            f"the answer broke the format of {self.adapter.release}: {violations[0]}"
        )
