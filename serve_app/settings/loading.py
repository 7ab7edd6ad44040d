"""From a file or plain data to settings, or to a message that says what to mend where."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from pydantic_settings import SettingsError as SourceError

from serve_app.errors import SettingsError
from serve_app.plain_data import line_of, yaml_text
from serve_app.settings.frontier import key_variable
from serve_app.settings.tree import Environment, Settings, conventional


def load(path: Path | None) -> Settings:
    """Read settings from a YAML file (or defaults) and the environment.

    Raises:
        SettingsError: The file is missing, is not YAML, or a key is unknown or has a value that
            is not allowed; the message names file, line, key and what is allowed.
    """
    if path is None:
        return from_args({})
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({error}); name another with --config"
        ) from None
    data = yaml_text(text, str(path)) or {}
    if not isinstance(data, dict):
        raise SettingsError(f"{path}:1: settings must be a mapping of sections, e.g. `gateway:`")
    try:
        return Settings(**data)
    except ValidationError as error:
        raise SettingsError(_explain(error, str(path), text)) from None
    except SourceError as error:
        raise SettingsError(f"environment: {error.__cause__ or error}") from None


def from_text(text: str, source: str, variables: Collection[str] | None = None) -> Settings:
    """Settings as another machine will read them: this one's environment has no say.

    Args:
        variables: Names of those in that machine's environment. Providers' keys are then looked for
            among them; by default all are taken to be there.

    Raises:
        SettingsError: As `load`.
    """
    data = yaml_text(text, source) or {}
    if not isinstance(data, dict):
        raise SettingsError(f"{source}:1: settings must be a mapping of sections, e.g. `gateway:`")
    try:
        return _Alone(**_with_keys(data, variables))
    except ValidationError as error:
        raise SettingsError(_explain(error, source, text)) from None


def from_args(args: Mapping[str, Any]) -> Settings:
    """Settings from plain data, as Serve hands them to replicas.

    What is given holds. The environment, which a process has for life, says the rest: secrets, and
    what nobody set.

    Raises:
        SettingsError: As `load`, without a line number.
    """
    try:
        given = _Alone(**_over(_over(conventional(), Environment(Settings)()), args))
    except ValidationError as error:
        raise SettingsError(_explain(error, "args", None)) from None
    except SourceError as error:
        raise SettingsError(f"environment: {error.__cause__ or error}") from None
    return Settings.model_construct(given.model_fields_set, **dict(given))


def _with_keys(data: Mapping[str, Any], variables: Collection[str] | None) -> dict[str, Any]:
    """The same with a key, or none at all, for each provider that finds its in the environment."""

    def keyed(upstream: Any) -> Any:
        if not isinstance(upstream, Mapping) or not upstream.get("provider"):
            return upstream
        there = variables is None or key_variable(upstream) in variables
        return {"api_key": "there" if there else "", **upstream}

    frontier = keyed(data.get("frontier"))
    if not isinstance(frontier, Mapping):
        return dict(data)
    fallbacks = frontier.get("fallbacks")
    more = {"fallbacks": [*map(keyed, fallbacks)]} if isinstance(fallbacks, list) else {}
    return {**data, "frontier": {**frontier, **more}}


class _Alone(Settings):
    """Settings of nothing but what is given."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *args: Any,
        **kwargs: Any,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, section by section; what is above hides what is below."""
    both = {**below, **above}
    for name in below.keys() & above.keys():
        under, over = below[name], above[name]
        if isinstance(under, Mapping) and isinstance(over, Mapping):
            both[name] = _over(under, over)
    return both


def _explain(error: ValidationError, source: str, text: str | None) -> str:
    """A line per mistake: place, key, what is wrong and allowed. Values stay out: secrets."""
    lines = []
    environment = Environment(Settings)
    for item in error.errors(include_url=False, include_input=False):
        if item["type"] == "default_factory_not_called":
            continue  # it follows from another one
        keys = tuple(str(part) for part in item["loc"])
        where = source
        if variable := environment.variable(keys):
            where = variable
        elif text and (line := line_of(text, keys)):
            where = f"{source}:{line}"
        problem = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            problem = f"unknown key; allowed here: {', '.join(_allowed(keys[:-1]))}"
        lines.append(f"{where}: {'.'.join(keys)}: {problem}")
    return "\n".join(lines)


def _allowed(section: tuple[str, ...]) -> list[str]:
    """Keys that a section may have; `section` is a path like `("gateway", "api_keys", "0")`."""
    model: Any = Settings
    for key in section:
        if key.isdigit():
            model = get_args(model)[0]
        elif key in getattr(model, "model_fields", {}):
            model = model.model_fields[key].annotation
        else:
            return []
    return sorted(getattr(model, "model_fields", {}))
