"""What embedding texts costs: it takes time of a machine of our own, so it has its price."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from serve_app.domain import Delta, Generation, Message, ModelCall, Usage, estimated_tokens
from serve_app.orchestration.run import Run


@dataclass(frozen=True, slots=True)
class Embedding:
    """Pays for embeddings.

    Attributes:
        model: Its name in the price table; `None`: they cost nothing.
    """

    model: str | None = None

    @asynccontextmanager
    async def paid(self, run: Run, texts: Sequence[str]) -> AsyncIterator[None]:
        """Around what embeds texts."""
        if self.model is None:
            yield
            return
        asked = Generation(tuple(Message("user", text) for text in texts), max_tokens=0)
        async with run.purse.paying([self.model], "embed", asked) as bill:
            yield
            bill.note(Delta(usage=Usage(estimated_tokens(texts))))
        run.beside.append(ModelCall(self.model, "embed", bill.usage))
