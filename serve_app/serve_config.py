"""What Ray Serve is told of a stack, made of its settings (`ServeDeploySchema`).

Serve has three ways to take a change over:

    args          the application is built anew and every replica of it is replaced
    user_config   the running replicas take it over (`reconfigure`)
    options       Serve's own: how many replicas, how many requests

So `args` hold what a running replica cannot change, and nothing else. Secrets are in none of them,
as Serve keeps all three: replicas read those from their environment. `helm/trivium/templates/
_settings.tpl` does the same with the values of the chart; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from serve_app import models
from serve_app.ledger.prices import PriceTable
from serve_app.orchestration.calibration import calibration_of
from serve_app.orchestration.prompts import load_prompts, prompt_texts
from serve_app.plain_data import yaml_file
from serve_app.router.fetching import digest_of, fetch
from serve_app.router.outcomes import load_outcomes
from serve_app.router.policy import load_policy
from serve_app.settings import Scaling, Settings

Plain = dict[str, Any]

_ENCODER = ("examples", "intents", "max_tokens", "threads", "sketch_bytes")
_NOT_TRAINED: dict[str, Any] = {"examples": [], "intents": {}}
_STORE = (
    *("milvus_uri", "milvus_ca", "registry", "vector_index", "tenancy"),
    *("embedding_model", "embedding", "rerank_model"),
)
_NOT_THE_ENGINES = ("max_output_tokens", "training", "training_workers")


def checked(settings: Settings) -> Settings:
    """The same, complete: policy, prompts and prices read, the heads named with their digest.

    Raises:
        SettingsError: One of them is bad, or a model has no price.
    """
    router, ledger = settings.router, settings.ledger
    policy = load_policy(router.policy)
    prices = PriceTable.load(ledger.prices, ledger.machines)
    for model in settings.models_used:
        prices.require(model)
    load_outcomes(router.outcomes)
    orchestration = settings.orchestration
    load_prompts(orchestration.prompts)
    own = {
        "prompts": prompt_texts(orchestration.prompts) or None,
        "calibration": _content(orchestration.calibration),
    }
    calibration_of(settings)
    more: Plain = {
        "policy": _content(router.policy),
        "outcomes": _content(router.outcomes),
    }
    if router.examples or router.heads:
        # Those trained here are a file like any other once they are.
        more |= {"heads": router.heads or str(models.router_heads(settings))}
        more |= {"examples": (), "intents": {}}
        more["heads_sha256"] = router.heads_sha256 or digest_of(more["heads"])
    heads = more.get("heads") or str(models.router_heads(settings))
    policy.require(fetch(heads, more.get("heads_sha256")))
    return settings.model_copy(
        update={
            "router": router.model_copy(update=more),
            "orchestration": orchestration.model_copy(update=own),
            "ledger": ledger.model_copy(update={"prices": _content(ledger.prices)}),
        }
    )


def applications(settings: Settings) -> list[Plain]:
    """The applications of a stack, as Serve's REST API takes them.

    Args:
        settings: With absolute paths (`Settings.resolved`).
    """
    plain = settings.to_args()
    everywhere = _pick(plain, "state_dir", "telemetry")
    return [
        {
            "name": "expert",
            "route_prefix": None,
            "import_path": "serve_app.app:expert",
            "args": {**everywhere, "expert": _engine(settings, plain)},
            "deployments": [_deployment("Expert", settings, settings.expert.scaling)],
        },
        {
            "name": "trivium",
            "route_prefix": "/",
            "import_path": "serve_app.app:trivium",
            "args": {
                **everywhere,
                "router": _pick(plain.get("router", {}), *_ENCODER),
                "retrieval": _pick(plain.get("retrieval", {}), *_STORE),
            },
            "deployments": _trivium(settings, plain),
        },
    ]


def _trivium(settings: Settings, plain: Plain) -> list[Plain]:
    retrieval = _live(plain, "retrieval")
    # Said, so that the environment does not say otherwise.
    router = {**_live(plain, "router"), **_NOT_TRAINED}
    lanes = {"scaling": {"max_replicas": settings.router.scaling.max_replicas}}
    gateway = {
        **{
            name: _live(plain, name)
            for name in ("gateway", "frontier", "orchestration", "ledger", "sync")
        },
        "router": {**_pick(router, "timeout_s", "max_batch_size"), **lanes},
        "expert": _omit(_live(plain, "expert"), "environment"),
        "retrieval": retrieval,
    }
    prices = _pick(gateway["ledger"], "prices", "machines", "baseline_model")
    if settings.frontier.provider:
        # Its key is not everywhere, so a router is told of no provider.
        prices["baseline_model"] = settings.frontier.model
    model = _pick(gateway["expert"], "model")
    configs = (
        ("Gateway", settings.gateway.scaling, gateway),
        ("Router", settings.router.scaling, {"router": router, "ledger": prices, "expert": model}),
        ("Retriever", settings.retrieval.scaling, {"retrieval": retrieval}),
        (
            "Frontier",
            settings.frontier.scaling,
            {"frontier": gateway["frontier"], "router": _pick(router, "policy")},
        ),
    )
    return [
        {
            **_deployment(name, settings, scaling),
            "ray_actor_options": _reserved(scaling),
            "user_config": config,
        }
        for name, scaling, config in configs
    ]


def _deployment(name: str, settings: Settings, scaling: Scaling) -> Plain:
    """Serve's options of one deployment that a change of restarts nothing."""
    # A file of Milvus Lite has one owner: the old one leaves first.
    alone = name == "Retriever" and settings.retrieval.embedded
    return {
        "name": name,
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
            "upscale_delay_s": scaling.upscale_delay_s,
            "downscale_delay_s": scaling.downscale_delay_s,
        },
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "max_surge_percent": 0 if alone else scaling.max_surge_percent,
        # A replica that is taken away finishes its streams first.
        "graceful_shutdown_timeout_s": settings.gateway.request_timeout_s,
    }


def _engine(settings: Settings, plain: Plain) -> Plain:
    """The expert's settings that its engine depends on, and the CPUs that are reserved for it."""
    reserved = _reserved(settings.expert.scaling)
    return {**_omit(_live(plain, "expert"), *_NOT_THE_ENGINES), "scaling": reserved}


def _reserved(scaling: Scaling) -> Plain:
    gpus = {"num_gpus": scaling.num_gpus} if scaling.num_gpus else {}
    return {"num_cpus": scaling.num_cpus, **gpus}


def _live(plain: Plain, section: str) -> Plain:
    """A section without what is Serve's own business."""
    return _omit(plain.get(section, {}), "scaling")


def _content(source: Path | Mapping[str, Any] | None) -> Any:
    return yaml_file(source) if isinstance(source, Path) else source


def _pick(section: Plain, *names: str) -> Plain:
    return {name: section[name] for name in names if name in section}


def _omit(section: Plain, *names: str) -> Plain:
    return {name: value for name, value in section.items() if name not in names}
