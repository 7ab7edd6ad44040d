"""The whole deployment graph on one page.

    Gateway ──▶ Router      which road? (in doubt it asks Expert)
       ├──────▶ Expert      vLLM
       ├──────▶ Retriever   Milvus
       └──────▶ Frontier    OpenAI, Anthropic, …

`build` is the import path of `serve run`, of a RayService and of `trivium up` alike.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig

from serve_app import models
from serve_app.errors import SettingsError
from serve_app.expert.deployment import ExpertServer, placement
from serve_app.frontier.deployment import FrontierServer
from serve_app.gateway.deployment import GatewayServer
from serve_app.ledger.prices import PriceTable
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.router.deployment import RouterServer, user_config
from serve_app.router.placement import Lanes
from serve_app.router.policy import DEFAULT, load_policy
from serve_app.settings import Scaling, Settings, from_args

log = logging.getLogger(__name__)


def build(args: Mapping[str, Any]) -> Application:
    """The Serve application for settings given as plain data (see `settings.Settings`).

    Raises:
        SettingsError: A setting is wrong, a price is missing, or models are not prepared.
    """
    settings = from_args(args)
    _check(settings)
    traces, patience = settings.telemetry.otlp_traces_endpoint, settings.gateway.request_timeout_s
    retriever = serve.deployment(
        RetrieverServer, name="Retriever", **_options(settings.retrieval.scaling, patience)
    ).bind(settings.retrieval, models.embedding_models(), traces)
    frontier = serve.deployment(
        FrontierServer,
        name="Frontier",
        user_config=pins_config(settings),
        **_options(settings.frontier.scaling, patience),
    ).bind(settings.frontier, traces)
    expert = serve.deployment(
        ExpertServer,
        name="Expert",
        **{**_options(settings.expert.scaling, patience), **placement(settings.expert)},
    ).bind(settings.expert, models.base_model(settings), traces)
    router = serve.deployment(
        RouterServer,
        name="Router",
        user_config=router_config(settings),
        request_router_config=RequestRouterConfig(request_router_class=Lanes),
        **_options(settings.router.scaling, patience),
    ).bind(settings.router, models.router_encoder(settings), expert, traces)
    gateway = serve.deployment(
        GatewayServer, name="Gateway", **_options(settings.gateway.scaling, patience)
    )
    return gateway.bind(settings, router, expert, retriever, frontier)


def router_config(settings: Settings) -> dict[str, Any]:
    """The router's heads and policy, as Serve hands them to running replicas.

    Raises:
        SettingsError: They are bad.
    """
    return user_config(models.router_heads(settings), settings.router.policy)


def pins_config(settings: Settings) -> dict[str, Any]:
    """The policy's pins, as Serve hands them to running replicas of the frontier.

    Raises:
        SettingsError: The policy is bad.
    """
    policy = load_policy(settings.router.policy or DEFAULT)
    return policy.all_pins.model_dump(mode="json")


def _check(settings: Settings) -> None:
    prices = PriceTable.load(settings.ledger.prices, settings.ledger.machines)
    outside = [each.model for each in settings.frontier.upstreams if each.provider]
    ours = [settings.expert.model, settings.retrieval.embedding_model]
    models_used = [*ours, settings.ledger.baseline_model, *outside]
    for model in models_used:
        prices.require(model)
    if stale := prices.stale(models_used, datetime.now(UTC).date()):
        log.warning("prices may have changed, read them again: %s", ", ".join(stale))
    if steps := models.missing(settings):
        raise SettingsError(f"not prepared: {', '.join(steps)}; run `trivium up`, which does it")


def _options(scaling: Scaling, patience_s: float) -> dict[str, Any]:
    """Serve's options for one deployment, whose answers may take so long."""
    return {
        "autoscaling_config": {
            "min_replicas": scaling.min_replicas,
            "max_replicas": scaling.max_replicas,
            "target_ongoing_requests": scaling.target_ongoing_requests,
        },
        "max_ongoing_requests": scaling.max_ongoing_requests,
        "max_queued_requests": scaling.max_queued_requests,
        "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
        "ray_actor_options": {
            "num_cpus": scaling.num_cpus,
            "num_gpus": scaling.num_gpus,
        },
        "health_check_period_s": 5,
        "health_check_timeout_s": 10,
        # A replica that is taken away finishes its streams first.
        "graceful_shutdown_timeout_s": patience_s,
    }
