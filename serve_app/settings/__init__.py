"""One settings tree, from a YAML file and the environment.

`TRIVIUM_` variables override the file; `__` descends: `TRIVIUM_EXPERT__MODEL=/models/llama`.
Unknown keys are refused, so a typing error cannot silently fall back to a default.
This is the only package that reads the environment.
"""

from serve_app.settings.loading import from_args, load
from serve_app.settings.sections import (
    BUNDLED,
    NAME,
    ApiKey,
    CircuitSettings,
    ExpertSettings,
    FrontierSettings,
    LedgerSettings,
    LimitSettings,
    LoraSettings,
    MaskSettings,
    OrchestrationSettings,
    RetrievalSettings,
    RouterSettings,
    Scaling,
    UpstreamSettings,
)
from serve_app.settings.tree import Settings

__all__ = [
    "BUNDLED",
    "NAME",
    "ApiKey",
    "CircuitSettings",
    "ExpertSettings",
    "FrontierSettings",
    "LedgerSettings",
    "LimitSettings",
    "LoraSettings",
    "MaskSettings",
    "OrchestrationSettings",
    "RetrievalSettings",
    "RouterSettings",
    "Scaling",
    "Settings",
    "UpstreamSettings",
    "from_args",
    "load",
]
