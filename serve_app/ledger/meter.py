"""What an answer cost, and what the same answer would have cost of other stacks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from serve_app.domain import Cost, Message, ModelCall, Usage, estimated_tokens
from serve_app.ledger.prices import PriceTable


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question and its answer, as any stack would have seen them: none of our prompts in it.

    Attributes:
        evidence_tokens: Of what was retrieved for it; `None` when nothing was.
    """

    question_tokens: int
    answer_tokens: int
    evidence_tokens: int | None = None

    @classmethod
    def of(cls, asked: Sequence[Message], answer: str, evidence_tokens: int | None) -> Exchange:
        """Estimated from the texts themselves: what our models wrote may not be what was sent."""
        asked_tokens = estimated_tokens(message.content for message in asked)
        return cls(asked_tokens, estimated_tokens([answer]), evidence_tokens)


class CostMeter:
    """Prices answers, and what each would have been instead.

    RAG-only: every question gets evidence into its prompt, and is answered by `baseline_model` in
    as many tokens as ours had. The evidence is what was retrieved for this very question;
    `context_tokens` where nothing was, because ours did not need it. Finding it costs
    nothing there, though ours pays for its embeddings. All-frontier is the same without evidence.
    """

    def __init__(
        self,
        prices: PriceTable,
        baseline_model: str,
        context_tokens: int,
    ) -> None:
        prices.require(baseline_model)
        self._prices = prices
        self._baseline_model = baseline_model
        self._context_tokens = context_tokens

    def cost(self, calls: Iterable[ModelCall], exchange: Exchange) -> Cost:
        """Dollars of an answer made by `calls` (every model call, failed drafts included)."""
        by_purpose: dict[str, float] = {}
        for call in calls:
            # As the ledger has it, to the last digit.
            dollars = self._prices.nanos(call.model, call.usage) / 1e9
            by_purpose[call.purpose] = by_purpose.get(call.purpose, 0.0) + dollars
        asked, said = exchange.question_tokens, exchange.answer_tokens
        evidence = exchange.evidence_tokens
        context = self._context_tokens if evidence is None else evidence
        return Cost(
            total=sum(by_purpose.values()),
            by_purpose=by_purpose,
            baseline=self._prices.of(self._baseline_model, Usage(asked + context, said)),
            all_frontier=self._prices.of(self._baseline_model, Usage(asked, said)),
        )
