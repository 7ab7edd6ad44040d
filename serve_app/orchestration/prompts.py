"""Prompts are texts: front matter with a version, then a Jinja template.

    ---
    version: 3
    options: { temperature: 0 }     # sampling; the caller's own overrule it
    ---
    Answer the question, using only the sources given with it.

Those in `prompts/` come along; the settings may hold others in their place
(`orchestration.prompts`). Each is checked when it is read: with what it will be filled with, by
rendering it.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, ConfigDict, Field

from serve_app.domain import Chunk
from serve_app.errors import SettingsError
from serve_app.plain_data import validated, yaml_text

_SUFFIX = ".md"

# What each may be filled with. Instructions: whether sources, and whether tools, come with the
# question, and whether the answer must be JSON.
_INSTRUCTIONS = [
    {"sources": sources, "tools": tools, "json": json}
    for sources, tools, json in itertools.product((True, False), repeat=3)
]
_SOURCES = [Chunk("id", "document", "Title", "", text, None) for text in ("One.", "Another.")]
_MARK = "0123456789ab"
_VALUES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    **dict.fromkeys(("adapter", "answer", "expert", "frontier"), _INSTRUCTIONS),
    **{name: [{}] for name in ("rewrite", "grade", "reflect", "repair")},
    "sources": [{"sources": _SOURCES, "mark": _MARK}],
}

# Prompts are plain text: escaping for HTML would change what the model reads.
_environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined, autoescape=False)


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    seed: int | None = None


class _Head(BaseModel):
    """The front matter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: int | str
    options: _Options = _Options()


@dataclass(frozen=True, slots=True)
class Prompt:
    """A versioned template; name, version and digest go into the trace of calls made with it.

    Attributes:
        options: The sampling parameters that it was written for, under their OpenAI names.
        digest: Of its text: two prompts of one version may differ.
    """

    name: str
    version: str
    digest: str
    options: Mapping[str, Any]
    template: jinja2.Template

    @property
    def attributes(self) -> dict[str, str]:
        """What the trace of a call that is made with it says."""
        return {
            "trivium.prompt.name": self.name,
            "trivium.prompt.version": self.version,
            "trivium.prompt.digest": self.digest,
        }

    def render(self, **values: Any) -> str:
        """Fill the template. Values are inserted as text and never read as template code."""
        return self.template.render(**values).strip()


def prompt_texts(own: Mapping[str, str] | Path | None) -> dict[str, str]:
    """The texts of a folder's prompts by their names, or those that are given.

    Raises:
        SettingsError: The folder cannot be read, or holds no prompt.
    """
    if not isinstance(own, Path):
        return dict(own or {})
    try:
        found = sorted(each for each in own.iterdir() if each.suffix == _SUFFIX)
        texts = {each.stem: each.read_text(encoding="utf-8") for each in found}
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{own}: the prompts cannot be read: {error}") from None
    if not texts:
        raise SettingsError(f"{own}: holds no prompt; one is a file such as expert{_SUFFIX}")
    return texts


def load_prompts(own: Mapping[str, str] | Path | None = None) -> Mapping[str, Prompt]:
    """Every prompt by its name: those that come along, and one's own in their place.

    Raises:
        SettingsError: As `prompt_texts`; or one has a name that none has, front matter that is not
            as it should be, or a template that cannot be filled with what it is given.
    """
    found = {name: _read(name, text, f"{name}{_SUFFIX}") for name, text in _shipped().items()}
    for name, text in prompt_texts(own).items():
        inline = f"orchestration.prompts.{name}"
        source = str(own / f"{name}{_SUFFIX}") if isinstance(own, Path) else inline
        if name not in found:
            there = ", ".join(sorted(_VALUES))
            raise SettingsError(f"{source}: there is no prompt {name!r}; there are {there}")
        found[name] = _read(name, text, source)
    return found


def _shipped() -> dict[str, str]:
    folder = files(__package__).joinpath("prompts")
    return {name: folder.joinpath(f"{name}{_SUFFIX}").read_text("utf-8") for name in _VALUES}


def _read(name: str, text: str, source: str) -> Prompt:
    begin, *parts = f"\n{text}".replace("\r\n", "\n").split("\n---\n", 2)
    if begin or len(parts) != 2:
        raise SettingsError(
            f"{source}: must begin with front matter between two lines of ---, "
            "such as `version: 1`; the prompt follows it"
        )
    head = validated(_Head, yaml_text(parts[0], source), source)
    return Prompt(
        name,
        str(head.version),
        hashlib.sha256(text.encode()).hexdigest()[:12],
        head.options.model_dump(exclude_none=True),
        _template(name, parts[1], source),
    )


def _template(name: str, body: str, source: str) -> jinja2.Template:
    values = set(_VALUES[name][0])
    try:
        used = find_undeclared_variables(_environment.parse(body))
        if unknown := used - values:
            known = f"is filled with {', '.join(sorted(values))}" if values else "has no variables"
            raise SettingsError(
                f"{source}: {', '.join(sorted(unknown))} is not known; "
                f"a prompt of this name {known}"
            )
        template = _environment.from_string(body)
        filled = [template.render(**each) for each in _VALUES[name]]
    except jinja2.TemplateSyntaxError as error:
        raise SettingsError(f"{source}: line {error.lineno} of the template: {error}") from None
    except (jinja2.TemplateError, TypeError, ValueError, ArithmeticError) as error:
        raise SettingsError(f"{source}: the template cannot be filled: {error}") from None
    if name == "sources" and not _apart(filled[0]):
        raise SettingsError(
            f"{source}: must show each source behind a {{{{ mark }}}} of its own, "
            "and one after the last"
        )
    return template


def _apart(filled: str) -> bool:
    """Whether marks set the sources apart: else one could be forged within another."""
    before, *parts = filled.split(_MARK)
    held = [sum(each.text in part for each in _SOURCES) for part in (before, *parts)]
    return sum(held) == len(_SOURCES) and max(held) == 1 and held[0] == held[-1] == 0


SHIPPED = load_prompts()
