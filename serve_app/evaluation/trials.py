"""The same rows answered in several ways by one engine: base and adapter, free and enforced."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from serve_app.domain import Usage
from serve_app.errors import SettingsError
from serve_app.evaluation.expert import Judge, Report, Row, Way, way
from serve_app.evaluation.forms import Form, guess, words
from serve_app.evaluation.support import Support
from serve_app.expert.adapters import MANIFEST
from serve_app.expert.batch import Request, Response
from serve_app.expert.contracts import parse
from serve_app.expert.examples import Example, read_examples
from serve_app.ledger.prices import PriceTable
from serve_app.plain_data import yaml_file

Messages = list[dict[str, str]]
Progress = Callable[[str, int, int], None]  # which way, rows answered, of how many


class Engine(Protocol):
    """`batch.Engine`, or something in its place."""

    def answers(
        self,
        requests: Sequence[Request],
        max_tokens: int,
        *,
        adapted: bool,
        structured: Mapping[str, Any] | None = None,
    ) -> Iterator[list[Response]]: ...


@dataclass(frozen=True, slots=True)
class Trial:
    """A way to answer.

    Attributes:
        enforced: The engine keeps to the form.
    """

    name: str
    requests: list[Request]
    adapted: bool
    enforced: bool


@dataclass(frozen=True, slots=True)
class Task:
    """What is asked and how answers are judged.

    Attributes:
        form: None where references share none.
    """

    rows: list[Row]
    asked: list[Messages]
    form: Form | None
    judge: Judge


def task(data: Path, contract: Path | None, spelled: Path | None, limit: int | None) -> Task:
    """Read rows with their references, and what answers are held against.

    Raises:
        SettingsError: A file is not what it should be.
    """
    examples = read_examples(data)[:limit]
    rows = [_row(number, each) for number, each in enumerate(examples, start=1)]
    asked = [
        [{"role": m.role, "content": m.content} for m in each.messages[:-1]] for each in examples
    ]
    form: Form | None = guess([row.reference for row in rows])
    closed: list[str] = []
    if contract:
        form = parse(contract.read_bytes(), str(contract))
        closed = list(words(yaml_file(contract)))
    ways = _mapping(spelled) if spelled else {}
    return Task(rows, asked, form, Judge(form, Support(closed, ways)))


def beside(adapter: Path, name: str) -> Path | None:
    """A file in an adapter's folder; `contract` is what the release calls so, or contract.yaml."""
    if name == "contract":
        manifest = adapter / MANIFEST
        found = yaml_file(manifest) if manifest.exists() else {}
        name = found.get("contract") or "contract.yaml"
    return adapter / name if (adapter / name).is_file() else None


def prompt(path: Path) -> Messages:
    """Messages to put before each question.

    Raises:
        SettingsError: The file has none.
    """
    messages = _mapping(path).get("messages")
    try:
        return [{"role": str(m["role"]), "content": str(m["content"])} for m in messages or []]
    except (TypeError, KeyError):
        raise SettingsError(f"{path}: `messages` must be a list of role and content") from None


def trials(task: Task, *, adapter: bool, structured: bool, prompt: Messages | None) -> list[Trial]:
    """Every way to answer, the base's first.

    Args:
        prompt: What the base alone is told before each question, instead of the row's own system
            message: the best prompt there is for it.
    """
    told = task.asked
    if prompt:
        told = [[*prompt, *(m for m in each if m["role"] != "system")] for each in task.asked]
    made = [Trial("base", _requests(task, told), adapted=False, enforced=False)]
    if adapter:
        made.append(Trial("adapter", _requests(task, task.asked), adapted=True, enforced=False))
    if structured and task.form and task.form.structured:
        made += [replace(each, name=f"{each.name}, structured", enforced=True) for each in made]
    return made


def run(
    engine: Engine, task: Task, trial: Trial, max_tokens: int, on_progress: Progress
) -> Iterator[list[Response]]:
    """Rows answered in one way, a batch at a time; an answer's seconds are its share of them."""
    structured = task.form.structured if trial.enforced and task.form else None
    done = 0
    for batch in engine.answers(
        trial.requests, max_tokens, adapted=trial.adapted, structured=structured
    ):
        done += len(batch)
        on_progress(trial.name, done, len(trial.requests))
        yield [replace(each, seconds=each.seconds / len(batch)) for each in batch]


def over_http(
    ask: Callable[[Messages], Mapping[str, Any]], task: Task, at_once: int, on_progress: Progress
) -> list[Response]:
    """All rows answered by a running stack.

    Args:
        ask: Returns a chat completion for messages.
    """
    answers: list[Response] = []
    started = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        for row, reply in zip(task.rows, pool.map(ask, task.asked), strict=True):
            choice, usage = reply["choices"][0], reply["usage"]
            answers.append(
                Response(
                    id=row.id,
                    text=choice["message"]["content"] or "",
                    finish_reason=choice["finish_reason"],
                    prompt_tokens=usage["prompt_tokens"],
                    completion_tokens=usage["completion_tokens"],
                    seconds=0.0,
                )
            )
            on_progress("stack", len(answers), len(task.rows))
    share = (time.monotonic() - started) / len(answers)
    return [replace(each, seconds=share) for each in answers]


def summary(task: Task, answers: Sequence[Response], prices: PriceTable | None, model: str) -> Way:
    """A way's scores, and what it took."""
    usage = sum((Usage(each.prompt_tokens, each.completion_tokens) for each in answers), Usage())
    judged = [
        task.judge.judge(row, answer.text) for row, answer in zip(task.rows, answers, strict=True)
    ]
    usd = prices.of(model, usage) if prices and prices.get(model) else None
    return way(judged, usage, sum(each.seconds for each in answers), usd)


def report(task: Task, base: str, adapter: str | None, ways: Mapping[str, Way]) -> Report:
    """All ways side by side."""
    notes = [] if task.form else ["the references share no form: no fields, no adherence"]
    return Report(len(task.rows), base, adapter, ways, task.judge.faithful(task.rows), notes)


def _row(number: int, example: Example) -> Row:
    asked = [m.content for m in example.messages[:-1] if m.role == "user"]
    return Row(number, "\n".join(asked), example.messages[-1].content)


def _requests(task: Task, messages: Sequence[Messages]) -> list[Request]:
    return [Request(row.id, each) for row, each in zip(task.rows, messages, strict=True)]


def _mapping(path: Path) -> dict[str, Any]:
    found = yaml_file(path)
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: must hold a mapping")
    return found
