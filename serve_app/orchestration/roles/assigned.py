"""Who fills the roles, as the settings say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from serve_app.domain import Chunk, Message, Route
from serve_app.orchestration.evidence import Sources
from serve_app.orchestration.prompts import Prompt
from serve_app.orchestration.roles import grading, reflecting, repairing, rewriting
from serve_app.orchestration.roles.asking import Asker
from serve_app.orchestration.roles.claims import Claim
from serve_app.orchestration.roles.filling import Role
from serve_app.orchestration.roles.reflecting import Finding
from serve_app.orchestration.run import Model
from serve_app.settings import RULE, Filler, RoleSettings

Rewrite = Role[[Sequence[Message], rewriting.Vain | None], rewriting.Rewritten]
Grade = Role[[str, Sequence[Chunk]], grading.Graded]
Reflect = Role[[str, Sequence[Claim], Sources], list[Finding]]
Repair = Role[[str, Sequence[Claim], Sources], list[Claim]]


@dataclass(frozen=True)
class Roles:
    """The roles of the knowledge road.

    Attributes:
        answer: Who reads the evidence, in order.
        grade: `None`: nobody does.
        reflect: `None`: nobody does.
        repair: Of who may answer.
    """

    rewrite: Rewrite
    answer: tuple[Filler, ...]
    grade: Grade | None
    reflect: Reflect | None
    repair: Repair

    @classmethod
    def of(
        cls,
        named: RoleSettings,
        models: Mapping[Route, tuple[Model, Sequence[str]]],
        prompts: Mapping[str, Prompt],
        min_relevance: float,
    ) -> Self:
        """The roles that settings describe.

        Args:
            models: Of expert and frontier, with their names in the price table.
            min_relevance: Least probability, by rule, that a chunk answers the question.
        """
        askers = {
            Route(filler): Asker(Route(filler), *models[Route(filler)])
            for filler in (Route.EXPERT, Route.FRONTIER)
        }
        sources_as = prompts["sources"]

        def those(fillers: Sequence[Filler]) -> list[tuple[Filler, Asker]]:
            return [(each, askers[Route(each)]) for each in fillers if each != RULE]

        grade = Grade(
            "grade",
            grading.ByRule(min_relevance),
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
