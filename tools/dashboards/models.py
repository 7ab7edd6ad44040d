"""How fast models answer, and what they do with their memory."""

from __future__ import annotations

from tools.dashboards.grafana import Dashboard, Panel
from tools.dashboards.promql import most, quantiles, rate, share

SEEN = (
    Panel(
        "Time to the first token",
        "s",
        "From the call of a model to its first text, queues included.",
        quantiles("ray_trivium_first_token_seconds", [0.5, 0.95], "model", "{{model}}"),
    ),
    Panel(
        "Time per token",
        "s",
        "After the first, of one answer.",
        quantiles("ray_trivium_token_seconds", [0.5, 0.95], "model", "{{model}}"),
    ),
    Panel(
        "Tokens a second",
        "short",
        "As they are paid for.",
        {"{{model}} {{kind}}": rate("ray_trivium_tokens_total", "model, kind")},
    ),
)

VLLM = (
    Panel(
        "vLLM: time to the first token",
        "s",
        "In the engine alone.",
        quantiles(
            "ray_vllm_time_to_first_token_seconds", [0.5, 0.95], "model_name", "{{model_name}}"
        ),
    ),
    Panel(
        "vLLM: time per token",
        "s",
        "Mean of a request, after its first token.",
        quantiles(
            "ray_vllm_request_time_per_output_token_seconds",
            [0.5, 0.95],
            "model_name",
            "{{model_name}}",
        ),
    ),
    Panel(
        "vLLM: requests",
        "short",
        "In the batch, and waiting for it.",
        {
            "running": "sum(ray_vllm_num_requests_running)",
            "waiting": "sum(ray_vllm_num_requests_waiting)",
        },
    ),
    Panel(
        "KV-cache in use",
        "percentunit",
        "Of each replica. Near 1, requests wait or are preempted. vLLM tells it while it works: no "
        "line is an idle engine.",
        {"{{ReplicaId}}": most("ray_vllm_kv_cache_usage_perc", "ReplicaId")},
    ),
    Panel(
        "Prompt tokens found in the prefix cache",
        "percentunit",
        "The share of prompts that was not computed again.",
        {"found": share("ray_vllm_prefix_cache_hits_total", "ray_vllm_prefix_cache_queries_total")},
    ),
    Panel(
        "Preemptions",
        "short",
        "Requests a second that lost their KV-cache to others: too little memory.",
        {"preempted": rate("ray_vllm_num_preemptions_total")},
    ),
)

MACHINES = (
    Panel(
        "GPU use",
        "percent",
        "As Ray's agents read it on each node.",
        {
            "{{instance}} {{GpuIndex}} {{GpuDeviceName}}": most(
                "ray_node_gpus_utilization", "instance, GpuIndex, GpuDeviceName"
            )
        },
    ),
    Panel(
        "GPU memory",
        "decmbytes",
        "In use on each GPU. vLLM takes its share when it starts, and keeps it.",
        {"{{instance}} {{GpuIndex}}": most("ray_node_gram_used", "instance, GpuIndex")},
    ),
    Panel(
        "Adapters in replicas",
        "short",
        "Loaded now, of all replicas of the expert.",
        {"loaded": "sum(ray_serve_num_multiplexed_models)"},
    ),
)

DASHBOARD = Dashboard(
    "trivium-models",
    "Trivium / Models and GPUs",
    {"As the gateway sees them": SEEN, "As vLLM sees them": VLLM, "GPUs and adapters": MACHINES},
)
