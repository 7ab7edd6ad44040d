"""A file of answers, so that nothing is asked twice: a killed evaluation goes on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from serve_app.errors import SettingsError
from serve_app.evaluation.expert import Judge, Row
from serve_app.expert.batch import Response

Key = tuple[str, str | int]  # which way, and the row's id
_OWN = tuple(Response.__dataclass_fields__)


class Answers:
    """By way and row; kept in a file if there is one.

    Raises:
        SettingsError: The file is not one that this wrote, or holds answers to other questions.
    """

    def __init__(self, path: Path | None, questions: str) -> None:
        self._path = path
        self._questions = questions
        self._found: dict[Key, Response] = {}
        if path and path.exists():
            self._read(path)

    def missing(self, way: str, rows: Sequence[Row]) -> set[str | int]:
        return {row.id for row in rows if (way, row.id) not in self._found}

    def add(self, way: str, batch: Sequence[Response]) -> None:
        self._found |= {(way, each.id): each for each in batch}
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(self._line(way, each, {}) for each in batch)

    def of(self, way: str, rows: Sequence[Row]) -> list[Response]:
        return [self._found[way, row.id] for row in rows]

    def finish(self, rows: Sequence[Row], judge: Judge) -> None:
        """Write beside each answer what is right and wrong with it."""
        if not self._path:
            return
        by_id = {row.id: row for row in rows}
        lines = [
            self._line(way, each, {"judged": asdict(judge.judge(by_id[number], each.text))})
            for (way, number), each in self._found.items()
            if number in by_id
        ]
        aside = self._path.with_name(f".{self._path.name}.new")
        aside.write_text("".join(lines), encoding="utf-8")
        os.replace(aside, self._path)

    def _line(self, way: str, answer: Response, more: Mapping[str, object]) -> str:
        line = {"way": way, "questions": self._questions, **asdict(answer), **more}
        return json.dumps(line, ensure_ascii=False) + "\n"

    def _read(self, path: Path) -> None:
        try:
            # A line without an end is what a killed run was writing.
            for text in path.read_text(encoding="utf-8").split("\n")[:-1]:
                line = json.loads(text)
                if line["questions"] != self._questions:
                    raise SettingsError(f"{path} holds answers to other rows: name another file")
                answer = Response(**{name: line[name] for name in _OWN})
                self._found[line["way"], answer.id] = answer
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} is no file of answers: {error}") from None
