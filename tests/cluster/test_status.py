"""`trivium status` and `trivium cost machines`: what runs, what is wrong, what it costs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from serve_app.domain import Usage
from serve_app.ledger.prices import PriceTable
from tests.cli.conftest import Outcome, Run
from tests.cluster import house
from tests.cluster.api import Api
from tests.cluster.conftest import Deploy

HEAD = "trivium-1-head-svc"


@pytest.fixture
def status(deploy: Deploy, trivium: Run, prices: Path) -> Any:
    """`trivium status` of a release that was just deployed."""
    assert deploy("--yes").code == 0

    def call(*arguments: str) -> Outcome:
        return trivium("status", "--prices", str(prices), *arguments)

    return call


def dashboard(api: Api) -> None:
    """The Ray dashboard and the head's metrics answer."""
    deployments = {
        "Gateway": {
            "status": "HEALTHY",
            "target_num_replicas": 2,
            "replicas": [{"state": "RUNNING"}, {"state": "STARTING"}],
        }
    }
    body = json.dumps({"applications": {"trivium": {"deployments": deployments}}})
    api.pages[f"{HEAD}:8265", "/api/serve/applications"] = (200, body)
    metric = 'ray_serve_autoscaling_total_requests{deployment="Gateway",application="trivium"} 7.0'
    kind = "# TYPE ray_serve_autoscaling_total_requests gauge\n"
    api.pages[f"{HEAD}:8080", "/metrics"] = (200, f"{kind}{metric}\n")


def test_pods_deployments_queue_gpus_and_dollars(api: Api, status: Any) -> None:
    dashboard(api)
    done = status("--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["state"] == "ready"
    assert told["groups"] == [
        {"name": "gpu", "ready": 1, "pods": 1, "least": 1, "most": 4},
        {"name": "head", "ready": 1, "pods": 1, "least": None, "most": None},
    ]
    assert told["deployments"] == [
        {"name": "Gateway", "status": "HEALTHY", "replicas": [1, 2], "requests": 7.0}
    ]
    assert told["gpus"] == {"NVIDIA-A10G": 2.0}
    # Half of the GPU node's four GPUs, and two of the CPU node's eight CPUs.
    assert told["usd_per_hour"] == pytest.approx(5.6 / 2 + 0.4 * 2 / 8)
    assert told["usd_per_gpu_second"] == pytest.approx(5.6 / 4 / 3600)
    table = status()
    for text in ("trivium is ready", "1/2", "2 NVIDIA-A10G", "$2.90 per hour", "$0.000389"):
        assert text in table.out


def test_the_dashboards_token_is_sent_in_the_header_that_passes_the_api_server(
    api: Api, status: Any
) -> None:
    dashboard(api)
    token = base64.b64encode(b"ray-token").decode()
    api.put({**house.named("v1", "Secret", "trivium-1", "trivium"), "data": {"auth_token": token}})
    done = status()
    assert "Bearer ray-token" in [each.get("x-ray-authorization") for each in api.asked]
    assert "ray-token" not in done.out + done.err


def test_without_the_dashboard_the_rayservice_tells(status: Any) -> None:
    told = json.loads(status("--json").out)
    assert told["deployments"] == [
        {"name": "Gateway", "status": "HEALTHY", "replicas": None, "requests": None}
    ]
    assert any("the Ray dashboard does not answer" in note for note in told["notes"])


def test_what_is_wrong_is_shown_with_its_remedy(
    api: Api, deploy: Deploy, trivium: Run, prices: Path
) -> None:
    api.operator = house.cannot_pull
    deploy("--yes")
    done = trivium("status", "--prices", str(prices))
    assert done.code == 1
    assert "trivium is not ready" in done.out
    assert "ImagePullBackOff" in done.out
    assert "check the image's name and tag" in done.out


def test_an_upgrade_says_how_far_it_is(api: Api, status: Any) -> None:
    service = api.get("RayService", "trivium")
    assert service is not None
    service["status"]["conditions"].append({"type": "UpgradeInProgress", "status": "True"})
    service["status"]["pendingServiceStatus"] = {"trafficRoutedPercent": 30}
    done = status()
    assert "upgrading, 30 % of the traffic has moved" in done.out
    assert done.code == 1


def test_watching_ends_with_ctrl_c(status: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = iter([None])

    def sleep(_: float) -> None:
        if next(looks, KeyboardInterrupt) is KeyboardInterrupt:
            raise KeyboardInterrupt

    monkeypatch.setattr("serve_app.cli.deploy.time.sleep", sleep)
    done = status("--watch")
    assert done.code == 130
    assert "trivium is ready" in done.out


def test_no_such_release(trivium: Run, prices: Path) -> None:
    done = trivium("status", "--release", "other", "--prices", str(prices))
    assert done.code == 2
    assert "no release 'other' in namespace 'trivium'" in done.err


def test_a_node_without_a_price_is_named_and_not_guessed(api: Api, status: Any) -> None:
    label = api.objects["v1", "nodes", "", "gpu-1"]["metadata"]["labels"]
    label["node.kubernetes.io/instance-type"] = "p6.huge"
    told = json.loads(status("--json").out)
    assert told["missing_prices"] == ["nodes.p6.huge"]
    assert told["usd_per_hour"] is None
    assert told["usd_per_gpu_second"] is None
    assert "the price table lacks nodes.p6.huge" in status().out


@pytest.mark.parametrize(
    "label",
    [
        {"karpenter.sh/capacity-type": "spot"},
        {"eks.amazonaws.com/capacityType": "SPOT"},
        {"cloud.google.com/gke-spot": "true"},
        {"kubernetes.azure.com/scalesetpriority": "spot"},
    ],
)
def test_spot_has_its_own_price(label: dict[str, str], api: Api, status: Any) -> None:
    api.objects["v1", "nodes", "", "gpu-1"]["metadata"]["labels"] |= label
    told = json.loads(status("--json").out)
    assert told["usd_per_gpu_second"] == pytest.approx(2.4 / 4 / 3600)
    assert told["gpus"] == {"NVIDIA-A10G spot": 2.0}


def test_a_spot_node_is_not_priced_as_if_it_were_none(api: Api, status: Any) -> None:
    api.objects["v1", "nodes", "", "cpu-1"]["metadata"]["labels"]["cloud.google.com/gke-spot"] = (
        "true"
    )
    told = json.loads(status("--json").out)
    assert told["missing_prices"] == ["nodes.m7i.2xlarge.spot_usd_per_hour"]


def test_a_mig_slice_costs_its_sevenths(
    api: Api, deploy: Deploy, trivium: Run, prices: Path
) -> None:
    node = api.objects["v1", "nodes", "", "gpu-1"]
    slices = {"nvidia.com/mig-3g.40gb": "4", "nvidia.com/mig-1g.10gb": "4"}
    node["status"]["allocatable"] = {"cpu": "48", "memory": "192Gi", **slices}
    done = deploy("--yes", change=[("nvidia.com/gpu: ", "nvidia.com/mig-3g.40gb: ")])
    assert done.code == 0, done.err
    told = json.loads(trivium("status", "--json", "--prices", str(prices)).out)
    assert told["gpus"] == {"NVIDIA-A10G mig-3g.40gb": 2.0}
    assert told["usd_per_gpu_second"] == pytest.approx(5.6 * 3 / 16 / 3600)


def test_a_machine_of_ones_own_is_priced_by_its_gpus(api: Api, status: Any, prices: Path) -> None:
    del api.objects["v1", "nodes", "", "gpu-1"]["metadata"]["labels"][
        "node.kubernetes.io/instance-type"
    ]
    row = "gpus:\n  NVIDIA-A10G: {usd_per_hour: 0.5, source: test, as_of: 2026-11-01}\n"
    prices.write_text(prices.read_text("utf-8") + row, "utf-8")
    told = json.loads(status("--json").out)
    assert told["usd_per_gpu_second"] == pytest.approx(0.5 / 3600)


def test_nodes_that_may_not_be_read_leave_the_rest(api: Api, status: Any) -> None:
    api.denied = {("list", "nodes")}
    done = status("--json")
    told = json.loads(done.out)
    assert done.code == 0
    assert told["groups"]
    assert any(note.startswith("no prices: nodes is forbidden") for note in told["notes"])


def test_what_machines_cost_reaches_the_ledger(
    api: Api, status: Any, trivium: Run, prices: Path, tmp_path: Path
) -> None:
    done = trivium("cost", "machines", "--write", "--prices", str(prices))
    assert done.code == 0, done.err
    assert "llama-3.1-8b-instruct is priced by ConfigMap/trivium-machines" in done.out
    written = api.get("ConfigMap", "trivium-machines")
    assert written is not None
    mounted = tmp_path / "machines.yaml"
    mounted.write_text(written["data"]["machines.yaml"], "utf-8")
    row = yaml.safe_load(mounted.read_text("utf-8"))["llama-3.1-8b-instruct"]
    assert row["usd_per_hour"] == pytest.approx(2 * 5.6 / 4)  # a replica has two of four GPUs
    assert row["as_of"] == "2026-11-01"
    assert "nodes.g5.12xlarge" in row["source"]
    ours = Path("configs/prices.yaml")
    listed = PriceTable.load(ours).of("llama-3.1-8b-instruct", Usage(1000, 1000))
    known = PriceTable.load(ours, mounted).of("llama-3.1-8b-instruct", Usage(1000, 1000))
    assert known / listed == pytest.approx(2.8 / 2.0)


def test_a_deployment_leaves_the_written_price_alone(
    api: Api, deploy: Deploy, trivium: Run, prices: Path
) -> None:
    declared = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: trivium-machines}\n---\n#"
    deploy("--yes", change=[("# What", declared)])
    trivium("cost", "machines", "--write", "--prices", str(prices))
    assert "nothing to change" in deploy("--yes", change=[("# What", declared)]).out
    done = deploy("--yes", change=[("# What", declared), ("1-gpu", "2-gpu")])
    assert done.code == 0, done.err
    written = api.get("ConfigMap", "trivium-machines")
    assert written is not None
    assert "llama" in written["data"]["machines.yaml"]


def test_a_price_that_is_not_known_is_not_written(
    api: Api, status: Any, trivium: Run, prices: Path
) -> None:
    prices.write_text("metered: {}\ncompute: {}\n", "utf-8")
    done = trivium("cost", "machines", "--write", "--prices", str(prices))
    assert done.code == 2
    assert "the price table has no nodes.g5.12xlarge: add it" in done.err
    assert api.get("ConfigMap", "trivium-machines") is None
