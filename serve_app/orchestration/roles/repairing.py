"""The role `repair`: sentences of a draft that the sources contradict, written again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from serve_app.errors import RoleUnfilled
from serve_app.orchestration.evidence import Sources
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles.asking import Asker, Form, a_list, an_object
from serve_app.orchestration.roles.claims import Claim, beside_sources, claimed
from serve_app.orchestration.run import Run

_TOKENS, _OF_EACH = 32, 192


async def by_rule(
    run: Run, question: str, claims: Sequence[Claim], sources: Sources
) -> list[Claim]:
    """Each is dropped: an empty text in its place."""
    return [Claim("")] * len(claims)


class _Sentences(Form):
    sentences: list[str]


_SCHEMA = an_object(sentences=a_list({"type": "string"}))


@dataclass(frozen=True)
class ByModel:
    """A model writes all of them at once. Marks that it puts behind them are taken off."""

    asker: Asker
    prompt: Prompt
    sources_as: Prompt

    async def __call__(
        self, run: Run, question: str, claims: Sequence[Claim], sources: Sources
    ) -> list[Claim]:
        """As `by_rule`.

        Raises:
            RoleUnfilled: There is not one text for each.
            TriviumError: As `Asker.ask`.
        """
        said = beside_sources(question, claims, sources, self.sources_as)
        most = _TOKENS + _OF_EACH * len(claims)
        found = (await self.asker.ask(run, self.prompt, said, _Sentences, _SCHEMA, most)).sentences
        if len(found) != len(claims):
            raise RoleUnfilled(f"{len(found)} texts for {len(claims)} sentences")
        texts = (" ".join(each.split()) for each in found)
        return [claimed(each, len(sources.chunks)) or Claim("") for each in texts]
