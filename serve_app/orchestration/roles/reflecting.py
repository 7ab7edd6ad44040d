"""The role `reflect`: what the sources say of each sentence of a draft."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from serve_app.domain import Chunk
from serve_app.errors import RoleUnfilled
from serve_app.orchestration.evidence import Sources
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles.asking import Asker, Form, a_list, an_object
from serve_app.orchestration.roles.claims import Claim, beside_sources
from serve_app.orchestration.run import Run

Verdict = Literal["supported", "contradicted", "not stated"]

_TOKENS, _OF_EACH = 32, 24


@dataclass(frozen=True, slots=True)
class Finding:
    """What the sources say of a claim.

    Attributes:
        chunk: The one that supports or contradicts it; `None` where it is not stated.
    """

    verdict: Verdict
    chunk: Chunk | None = None


async def by_rule(
    run: Run, question: str, claims: Sequence[Claim], sources: Sources
) -> list[Finding]:
    """By words, figures and negations."""
    # A whole base takes longer than a loop may wait.
    return await asyncio.to_thread(found_by_rule, claims, sources)


def found_by_rule(claims: Sequence[Claim], sources: Sources) -> list[Finding]:
    """As `by_rule`, at once."""
    return [_finding(each, sources) for each in claims]


def _finding(claim: Claim, sources: Sources) -> Finding:
    chunk = sources.supporter(claim.text, [number - 1 for number in claim.sources])
    if chunk is None:
        return Finding("not stated")
    denier = sources.denier(claim.text)
    return Finding("contradicted", denier) if denier else Finding("supported", chunk)


class _Verdict(Form):
    verdict: Verdict
    source: int


class _Verdicts(Form):
    verdicts: list[_Verdict]


_SCHEMA = an_object(
    verdicts=a_list(
        an_object(
            verdict={"type": "string", "enum": ["supported", "contradicted", "not stated"]},
            source={"type": "integer"},
        )
    )
)


@dataclass(frozen=True)
class ByModel:
    """A model judges all sentences that wait at once."""

    asker: Asker
    prompt: Prompt
    sources_as: Prompt

    async def __call__(
        self, run: Run, question: str, claims: Sequence[Claim], sources: Sources
    ) -> list[Finding]:
        """As `by_rule`.

        Raises:
            RoleUnfilled: There is not one verdict for each, or one names a source that is none.
            TriviumError: As `Asker.ask`.
        """
        said = beside_sources(question, claims, sources, self.sources_as)
        most = _TOKENS + _OF_EACH * len(claims)
        found = (await self.asker.ask(run, self.prompt, said, _Verdicts, _SCHEMA, most)).verdicts
        if len(found) != len(claims):
            raise RoleUnfilled(f"{len(found)} verdicts for {len(claims)} sentences")
        return [_judged(each, sources.chunks) for each in found]


def _judged(found: _Verdict, chunks: Sequence[Chunk]) -> Finding:
    if found.verdict == "not stated":
        return Finding(found.verdict)
    if not 1 <= found.source <= len(chunks):
        raise RoleUnfilled(f"there is no source {found.source}")
    return Finding(found.verdict, chunks[found.source - 1])
