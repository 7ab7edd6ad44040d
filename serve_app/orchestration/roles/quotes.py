"""The role `answer` without a writer: which statements of the evidence are the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.domain import Chunk
from serve_app.orchestration import quoting
from serve_app.orchestration.calibration import Calibration
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.quoting import Statement
from serve_app.orchestration.run import Knowledge, Run

_CANDIDATES = 64  # statements that are compared with a question, at most


@dataclass(frozen=True, slots=True)
class Quoted:
    """What is quoted; nothing, where that is not likely enough.

    Attributes:
        probability: That the likeliest statement holds the answer.
    """

    statements: Sequence[Statement]
    probability: float


@dataclass(frozen=True)
class ByRule:
    """The statements whose embeddings are nearest to the question's.

    Args:
        read: What their cosines mean; `None`: nobody knows, and nothing is quoted.
        least: Least probability.
    """

    knowledge: Knowledge
    embedding: Embedding
    read: Calibration | None
    least: float

    async def __call__(
        self, run: Run, collection: str, question: str, chunks: Sequence[Chunk]
    ) -> Quoted:
        """The answer.

        Raises:
            TriviumError: They could not be embedded.
        """
        if self.read is None:
            return Quoted([], 0.0)
        stated = await asyncio.to_thread(quoting.statements, question, chunks, _CANDIDATES)
        texts = [each.in_context for each in stated]
        async with self.embedding.paid(run, [question, *texts]):
            cosines = await self.knowledge.nearness(run.context, collection, question, texts)
        chosen = quoting.choose(question, stated, cosines, self.read, self.least)
        return Quoted(chosen, self.read.statement(max(cosines, default=-1.0)))
