"""Who fills the roles, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from serve_app.domain import Chunk, Message, Route
from serve_app.orchestration.calibration import Calibration
from serve_app.orchestration.embedding import Embedding
from serve_app.orchestration.evidence import Sources
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles import grading, quotes, reflecting, repairing, rewriting
from serve_app.orchestration.roles.asking import Asker
from serve_app.orchestration.roles.claims import Claim
from serve_app.orchestration.roles.filling import Role
from serve_app.orchestration.roles.reflecting import Finding
from serve_app.orchestration.run import Knowledge, Model
from serve_app.settings import RULE, Filler, OrchestrationSettings

Rewrite = Role[[Sequence[Message], rewriting.Vain | None], rewriting.Rewritten]
Grade = Role[[str, Sequence[Chunk]], grading.Graded]
Reflect = Role[[str, Sequence[Claim], Sources], list[Finding]]
Repair = Role[[str, Sequence[Claim], Sources], list[Claim]]


@dataclass(frozen=True)
class Roles:
    """The roles of the knowledge road.

    Attributes:
        answer: Who reads the evidence, in order.
        quote: How the rule answers.
        grade: `None`: nobody does.
        reflect: `None`: nobody does.
        repair: Of who may answer.
    """

    rewrite: Rewrite
    answer: tuple[Filler, ...]
    quote: quotes.ByRule
    grade: Grade | None
    reflect: Reflect | None
    repair: Repair

    @classmethod
    def of(
        cls,
        rules: OrchestrationSettings,
        models: Mapping[Route, tuple[Model, Sequence[str]]],
        prompts: Mapping[str, Prompt],
        knowledge: Knowledge,
        embedding: Embedding,
        calibration: Calibration | None,
        *,
        min_relevance: float,
    ) -> Self:
        """The roles that settings describe.

        Args:
            models: Of expert and frontier, with their names in the price table.
            knowledge: Where what is quoted is compared with the question.
            calibration: Of the embedding model; `None`: it has none.
            min_relevance: Least probability, by rule, that a chunk answers the question.
        """
        askers = {road: Asker(road, *models[road]) for road in (Route.EXPERT, Route.FRONTIER)}
        sources_as = prompts["sources"]

        def those(fillers: Sequence[Filler]) -> list[tuple[Filler, Asker]]:
            return [(each, askers[Route(each)]) for each in fillers if each != RULE]

        named = rules.roles

        grade = Grade(
            "grade",
            grading.ByRule(calibration.chunk if calibration else None, min_relevance),
            [
                (filler, grading.ByModel(asker, prompts["grade"], sources_as))
                for filler, asker in those(named.grade)
            ],
            named.timeout_s,
        )
        reflect = Reflect(
            "reflect",
            reflecting.by_rule,
            [
                (filler, reflecting.ByModel(asker, prompts["reflect"], sources_as))
                for filler, asker in those(named.reflect)
            ],
            named.timeout_s,
        )
        return cls(
            rewrite=Rewrite(
                "rewrite",
                rewriting.by_rule,
                [
                    (filler, rewriting.ByModel(asker, prompts["rewrite"], filler != "frontier"))
                    for filler, asker in those(named.rewrite)
                ],
                named.timeout_s,
            ),
            answer=named.answer,
            quote=quotes.ByRule(knowledge, embedding, calibration, rules.min_quote),
            grade=grade if named.grade else None,
            reflect=reflect if named.reflect else None,
            repair=Repair(
                "repair",
                repairing.by_rule,
                [
                    (filler, repairing.ByModel(asker, prompts["repair"], sources_as))
                    for filler, asker in those(named.answer)
                ],
                named.timeout_s,
            ),
        )

    def readers(self, *, in_json: bool) -> tuple[Filler, ...]:
        """Who may answer from evidence, in order. No quotation is JSON: a model fills that."""
        if not in_json:
            return self.answer
        return tuple(each for each in self.answer if each != RULE) or ("expert",)
