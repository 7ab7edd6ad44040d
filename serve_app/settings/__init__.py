"""One settings tree, from a YAML file and the environment.

`TRIVIUM_` variables override the file; `__` descends: `TRIVIUM_EXPERT__MODEL=/models/llama`.
Unknown keys are refused, so a typing error cannot silently fall back to a default.
This is the only package that reads the environment.
"""

from serve_app.settings.base import GROUP, NAME, Scaling
from serve_app.settings.frontier import (
    CircuitSettings,
    FrontierSettings,
    MaskSettings,
    UpstreamSettings,
)
from serve_app.settings.gateway import ApiKey, GatewaySettings
from serve_app.settings.ledger import LedgerSettings, LimitSettings
from serve_app.settings.loading import from_args, from_text, load
from serve_app.settings.orchestration import (
    RULE,
    DoubtSettings,
    Filler,
    OrchestrationSettings,
    RoleSettings,
)
from serve_app.settings.sections import (
    BUNDLED,
    EmbeddingSettings,
    ExpertSettings,
    LoraSettings,
    RetrievalSettings,
    RouterSettings,
)
from serve_app.settings.tree import Settings

__all__ = [
    "BUNDLED",
    "GROUP",
    "NAME",
    "RULE",
    "ApiKey",
    "CircuitSettings",
    "DoubtSettings",
    "EmbeddingSettings",
    "ExpertSettings",
    "Filler",
    "FrontierSettings",
    "GatewaySettings",
    "LedgerSettings",
    "LimitSettings",
    "LoraSettings",
    "MaskSettings",
    "OrchestrationSettings",
    "RetrievalSettings",
    "RoleSettings",
    "RouterSettings",
    "Scaling",
    "Settings",
    "UpstreamSettings",
    "from_args",
    "from_text",
    "load",
]
