"""The tree of all sections, and how the environment comes into it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from serve_app.plain_data import json_text
from serve_app.settings.frontier import FrontierSettings
from serve_app.settings.gateway import GatewaySettings
from serve_app.settings.ledger import LedgerSettings
from serve_app.settings.orchestration import OrchestrationSettings
from serve_app.settings.sections import (
    ExpertSettings,
    RetrievalSettings,
    RouterSettings,
    TelemetrySettings,
)
from serve_app.settings.sync import SyncSettings


class Settings(BaseSettings):
    """The whole tree. Build it with `load`, or from plain data with `from_args`.

    Attributes:
        state_dir: What is made and kept here: models, caches, embedded databases.
        shipped_models: Folder of models that were made before, with an image; it is only read.
    """

    model_config = SettingsConfigDict(
        env_prefix="TRIVIUM_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    state_dir: Path = Path(".trivium")
    shipped_models: Path | None = None
    gateway: GatewaySettings = GatewaySettings()
    router: RouterSettings = RouterSettings()
    expert: ExpertSettings = ExpertSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    frontier: FrontierSettings = FrontierSettings()
    orchestration: OrchestrationSettings = OrchestrationSettings()
    ledger: LedgerSettings = LedgerSettings()
    sync: SyncSettings = SyncSettings()
    telemetry: TelemetrySettings = TelemetrySettings()

    @model_validator(mode="after")
    def _patient_enough(self) -> Settings:
        frontier, patience = self.frontier, self.gateway.request_timeout_s
        if "timeout_s" in frontier.model_fields_set and frontier.timeout_s > patience:
            raise ValueError(
                f"frontier.timeout_s ({frontier.timeout_s:g}) is above gateway.request_timeout_s "
                f"({patience:g}), when nobody waits any more: raise that, or lower this"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment overrides the file; conventional variables come last."""
        last = InitSettingsSource(settings_cls, conventional())
        return Environment(settings_cls), init_settings, last

    @property
    def models_dir(self) -> Path:
        return self.state_dir / "models"

    @property
    def registry_password(self) -> str:
        """Of the PostgreSQL user of the registry."""
        own = self.retrieval.registry_password or self.ledger.password
        return own.get_secret_value()

    @property
    def models_used(self) -> list[str]:
        """Names of the models that must have a price."""
        outside = [each.model for each in self.frontier.upstreams if each.provider]
        ours = [self.expert.model, self.retrieval.embedding_model]
        return [*ours, self.ledger.baseline_model, *outside]

    def resolved(self, root: Path) -> Settings:
        """The same settings with every relative path made absolute against `root`."""
        router, retrieval = self.router, self.retrieval
        state = root / self.state_dir
        adapters = self.expert.adapters
        if "://" not in adapters:
            adapters = str(state / adapters)
        lora = self.expert.lora.model_copy(update={"cache": state / self.expert.lora.cache})
        return self.model_copy(
            update={
                "state_dir": state,
                "shipped_models": self.shipped_models and root / self.shipped_models,
                "router": router.resolved(root),
                "orchestration": self.orchestration.resolved(root),
                "expert": self.expert.model_copy(update={"adapters": adapters, "lora": lora}),
                "ledger": self.ledger.resolved(root, state),
                "retrieval": retrieval.resolved(root, state, self.ledger.database),
            }
        )

    def to_args(self) -> dict[str, Any]:
        """The same as plain data, without secrets: those come from the environment."""
        return self.model_dump(mode="json", exclude=_SECRETS, exclude_defaults=True)


class Environment(EnvSettingsSource):
    """`TRIVIUM_` variables. Names under `expert.environment` are variables too: they keep case."""

    _VARIABLES = "TRIVIUM_EXPERT__ENVIRONMENT__"

    def decode_complex_value(self, field_name: str, field: FieldInfo, value: Any) -> Any:
        """JSON, as the base class reads it; an error names the variable."""
        try:
            return json_text(value)
        except (ValueError, RecursionError) as error:
            names = (name for name, each in self.env_vars.items() if each == value)
            name = next((n for n in names if n.startswith(self.env_prefix.lower())), field_name)
            raise ValueError(f"{name.upper()}: must be JSON: {error}") from None

    def __call__(self) -> dict[str, Any]:
        data = super().__call__()
        length = len(self._VARIABLES)
        exact = {k[length:]: v for k, v in os.environ.items() if k.startswith(self._VARIABLES)}
        if exact:
            data["expert"] = {**data.get("expert", {}), "environment": exact}
        return data

    def variable(self, keys: Sequence[str]) -> str | None:
        """The variable that gives the setting at a path, or None where none does."""
        given: Any = self()
        for key in keys:
            if isinstance(given, list):
                break  # a list is given whole
            if not isinstance(given, dict) or key not in given:
                return None
            given = given[key]
        present = {name.upper() for name in self.env_vars}
        names = (self.env_prefix + "__".join(keys[:depth]) for depth in range(len(keys), 0, -1))
        return next((name.upper() for name in names if name.upper() in present), None)


_SECRETS: Any = {
    "gateway": {"first_key"},
    "frontier": {"api_key": True, "fallbacks": {"__all__": {"api_key"}}},
    "retrieval": {"milvus_token", "registry_password"},
    "ledger": {"password"},
    "sync": {"sources": {"__all__": {"table": {"password"}}}},
}


def conventional() -> dict[str, Any]:
    """Settings from variables that other tools define."""
    found: dict[str, Any] = {}
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
        base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or (
            base and base.rstrip("/") + "/v1/traces"
        )
        if endpoint:
            found["telemetry"] = {"otlp_traces_endpoint": endpoint}
    return found
