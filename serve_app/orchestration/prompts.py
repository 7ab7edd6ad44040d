"""Prompts are files in `prompts/`: front matter with name and version, then a Jinja template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import jinja2

from serve_app.plain_data import yaml_text

# Prompts are plain text: escaping for HTML would change what the model reads.
_environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701


@dataclass(frozen=True, slots=True)
class Prompt:
    """A versioned template; name and version go into the trace of every call made with it.

    `options` are the sampling parameters it was written for; the caller's own overrule them.
    """

    name: str
    version: int
    options: Mapping[str, Any]
    template: jinja2.Template

    def render(self, **values: Any) -> str:
        """Fill the template. Values are inserted as text and never read as template code."""
        return self.template.render(**values).strip()


@cache
def prompt(name: str) -> Prompt:
    """The prompt in `prompts/<name>.md`."""
    text = files(__package__).joinpath("prompts", f"{name}.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    meta = yaml_text(head, f"{name}.md")
    template = _environment.from_string(body)
    return Prompt(meta["name"], int(meta["version"]), meta.get("options", {}), template)
