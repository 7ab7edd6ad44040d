"""Who talks to whom, on one page: two Serve applications.

    trivium                                                     expert
    Gateway ──▶ Router      which road? (Retriever tells it what is known; in doubt it asks Expert)
       ├────────────────────────────────────────────────────────▶ Expert      vLLM
       ├──────▶ Retriever   Milvus
       └──────▶ Frontier    OpenAI, Anthropic, …

`expert` and `trivium` are the import paths of `serve run`, of a RayService and of `trivium up`
alike. Their arguments are what a running replica cannot change, so that a change of them replaces
the application's replicas, and leaves the other application alone. Everything else is in the
deployments' `user_config` and options, which `serve_config` makes of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import BackpressureConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle

from serve_app import models
from serve_app.expert.deployment import ExpertServer, placement
from serve_app.expert.placement import request_routing
from serve_app.frontier.deployment import FrontierServer
from serve_app.gateway.deployment import GatewayServer
from serve_app.retrieval.deployment import RetrieverServer
from serve_app.router.deployment import RouterServer
from serve_app.router.placement import Lanes
from serve_app.router.policy import pins
from serve_app.settings import from_args

_STEADY: dict[str, Any] = {
    "backpressure_config": BackpressureConfig(status_code=429, retry_after_s=1),
    "health_check_period_s": 5,
    "health_check_timeout_s": 10,
}

_NONE = {"min_replicas": 0, "initial_replicas": 0, "max_replicas": 1}
_FREE = {"num_cpus": 0}


class Ingress:
    """What Serve takes for the way into the application `expert`. It has no replica.

    Under HAProxy Serve refuses an application's first deployment a request router of its own, opens
    an HTTP port on each of its replicas, and lets each that leaves wait for HAProxy's sake. Nobody
    comes to the expert by HTTP: whoever asks it has a handle to it.
    """

    def __init__(self, expert: DeploymentHandle[Any]) -> None:
        self._expert = expert


def expert(args: Mapping[str, Any]) -> Application:
    """The application `expert`.

    Raises:
        SettingsError: An argument is wrong.
    """
    settings = from_args(args)
    options = {**_STEADY, **placement(settings.expert), **request_routing(settings.expert)}
    server = serve.deployment(ExpertServer, name="Expert", **options).bind(
        settings.expert, models.base_model(settings), settings.telemetry.otlp_traces_endpoint
    )
    return serve.deployment(Ingress, autoscaling_config=_NONE, ray_actor_options=_FREE).bind(server)


def trivium(args: Mapping[str, Any]) -> Application:
    """The application `trivium`.

    Raises:
        SettingsError: An argument is wrong.
    """
    settings = from_args(args)
    traces = settings.telemetry.otlp_traces_endpoint
    the_expert: DeploymentHandle[Any] = DeploymentHandle("Expert", app_name="expert")
    retriever = serve.deployment(RetrieverServer, name="Retriever", **_STEADY).bind(
        {"retrieval": args.get("retrieval", {})},
        models.embedding_models(),
        partial(models.sketching, dict(args)),
        traces,
    )
    frontier = serve.deployment(FrontierServer, name="Frontier", **_STEADY).bind(pins, traces)
    router = serve.deployment(
        RouterServer,
        name="Router",
        request_router_config=RequestRouterConfig(request_router_class=Lanes),
        **_STEADY,
    ).bind(
        settings.router,
        models.router_encoder(settings),
        partial(models.ready_heads, dict(args)),
        the_expert,
        retriever,
        traces,
    )
    gateway = serve.deployment(GatewayServer, name="Gateway", **_STEADY)
    return gateway.bind(router, the_expert, retriever, frontier, traces)
