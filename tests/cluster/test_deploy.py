"""`trivium deploy`, `upgrade` and `rollback`, against a Kubernetes API on a socket."""

from __future__ import annotations

import json

import pytest

from serve_app.cluster.preflight import CHECKS
from tests.cli.conftest import Run
from tests.cluster import house
from tests.cluster.api import Api, Object
from tests.cluster.conftest import Deploy

NEW_IMAGE = [("trivium:1-gpu", "trivium:2-gpu")]


def image(api: Api) -> str:
    service = api.get("RayService", "trivium")
    assert service is not None
    workers = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return str(workers[0]["template"]["spec"]["containers"][0]["image"])


def states(api: Api) -> list[str]:
    """Of the revisions, oldest first."""
    found: list[Object] = [
        each
        for each in api.objects.values()
        if each["metadata"]["name"].startswith("trivium.v1.trivium.")
    ]
    found.sort(key=lambda each: int(each["metadata"]["labels"]["trivium.dev/revision"]))
    return [each["metadata"]["labels"]["trivium.dev/state"] for each in found]


def test_a_fresh_install_is_shown_applied_in_order_and_waited_for(api: Api, deploy: Deploy) -> None:
    done = deploy("--yes")
    assert done.code == 0, done.err
    assert "create RayService/trivium" in done.out
    assert "revision 1 serves: every road answers" in done.out
    own = [each for each in api.applied if not each.startswith("Secret/trivium.v1.")]
    assert own == [
        "ConfigMap/trivium-config",
        "PersistentVolumeClaim/trivium-models",
        "RayService/trivium",
    ]
    assert states(api) == ["deployed"]
    assert api.get("Pod", "trivium-test") is None  # a hook


def test_nothing_new_is_nothing_done(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    before = list(api.applied)
    again = deploy()  # nobody has to confirm nothing
    assert (again.code, again.out) == (0, "nothing to change: revision 1 is what runs\n")
    assert api.applied == before


def test_an_upgrade_shows_the_line_that_changes(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    done = deploy("--yes", command="upgrade", change=NEW_IMAGE)
    assert done.code == 0, done.err
    assert "change RayService/trivium" in done.out
    changed = [line.split() for line in done.out.splitlines() if line.startswith(("  -", "  +"))]
    assert changed == [
        ["-", "image:", "example.com/trivium:1-gpu"],
        ["+", "image:", "example.com/trivium:2-gpu"],
    ]
    assert image(api) == "example.com/trivium:2-gpu"
    assert states(api) == ["superseded", "deployed"]


def test_upgrade_does_not_install(deploy: Deploy, api: Api) -> None:
    done = deploy("--yes", command="upgrade")
    assert done.code == 2
    assert "no release trivium in namespace trivium to upgrade: use trivium deploy" in done.err
    assert api.applied == []


def test_a_dry_run_stops_after_the_diff(api: Api, deploy: Deploy) -> None:
    done = deploy("--dry-run")
    assert done.code == 0, done.err
    assert "3 changes; nothing was applied" in done.out
    assert api.applied == []


def test_without_a_terminal_somebody_has_to_say_yes(api: Api, deploy: Deploy) -> None:
    done = deploy()
    assert done.code == 2
    assert "pass --yes" in done.err
    assert api.applied == []


def test_what_is_no_longer_wanted_goes_but_never_data(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    extra = [("name: trivium-config", "name: other-config"), ("trivium-models", "other-models")]
    done = deploy("--yes", change=extra)
    assert done.code == 0, done.err
    assert "delete ConfigMap/trivium-config" in done.out
    assert api.get("ConfigMap", "trivium-config") is None
    assert api.get("PersistentVolumeClaim", "trivium-models") is not None


def test_a_failed_upgrade_goes_back_by_itself(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    api.operator = lambda api, service: (
        house.cannot_pull if "2-gpu" in str(service["spec"]) else house.succeeds
    )(api, service)
    done = deploy("--yes", "--rollback-on-failure", command="upgrade", change=NEW_IMAGE)
    assert done.code == 1
    assert "RayService/trivium will not serve" in done.err
    assert "went back to 1: it serves as revision 3" in done.err
    assert image(api) == "example.com/trivium:1-gpu"
    assert states(api) == ["superseded", "failed", "deployed"]


def test_a_failed_upgrade_is_left_to_be_looked_at_otherwise(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    api.operator = house.cannot_pull
    done = deploy("--yes", command="upgrade", change=NEW_IMAGE)
    assert done.code == 1
    assert image(api) == "example.com/trivium:2-gpu"
    assert states(api) == ["deployed", "failed"]


def test_rollback_applies_the_former_revision_again(api: Api, deploy: Deploy, trivium: Run) -> None:
    deploy("--yes")
    deploy("--yes", change=NEW_IMAGE)
    done = trivium("rollback", "--yes")
    assert done.code == 0, done.err
    assert image(api) == "example.com/trivium:1-gpu"
    assert states(api) == ["superseded", "superseded", "deployed"]
    missing = trivium("rollback", "9", "--yes")
    assert missing.code == 2
    assert "has no revision 9; it has: 1, 2, 3" in missing.err


def test_there_may_be_nothing_to_go_back_to(deploy: Deploy, trivium: Run) -> None:
    deploy("--yes")
    done = trivium("rollback", "--yes")
    assert done.code == 2
    assert "no earlier revision" in done.err


def test_a_field_of_another_manager_is_left_alone_and_named(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    key = ("v1", "configmaps", "trivium", "trivium-config")
    api.objects[key]["data"]["settings.yaml"] = "theirs"
    api.owners[key] = {"kubectl-edit": {("data", "settings.yaml")}}
    done = deploy("--yes")
    assert done.code == 1
    assert "ConfigMap/trivium-config: belongs to another manager" in done.err
    assert 'conflict with "kubectl-edit"' in done.err
    assert "--force-conflicts" in done.err
    assert api.objects[key]["data"]["settings.yaml"] == "theirs"
    assert deploy("--yes", "--force-conflicts").code == 0
    assert "gpu" in api.objects[key]["data"]["settings.yaml"]


def test_two_at_a_time_do_not_mix(api: Api, deploy: Deploy) -> None:
    # Somebody's record of the same revision appears between our look and our own.
    api.put(house.named("v1", "Secret", "trivium.v1.trivium.1", "trivium"))
    done = deploy("--yes")
    assert done.code == 1
    assert "somebody else deploys trivium at this moment" in done.err
    assert api.applied == []


def test_a_cluster_that_goes_condemns_nothing(api: Api, deploy: Deploy) -> None:
    deploy("--yes")
    pod = api.get("Pod", "trivium-1-gpu")
    assert pod is not None
    waiting = {"reason": "ImagePullBackOff", "message": "gone"}
    pod["status"]["containerStatuses"] = [{"name": "ray-worker", "state": {"waiting": waiting}}]
    api.operator = house.warms_up_beside(8)
    done = deploy("--yes", change=NEW_IMAGE)
    assert done.code == 0, done.err


def test_an_api_server_that_restarts_is_waited_for(api: Api, deploy: Deploy) -> None:
    def act(api: Api, service: Object) -> None:
        house.succeeds(api, service)
        api.outage = 3

    api.operator = act
    done = deploy("--yes")
    assert done.code == 0, done.err
    assert "apiserver not ready" in done.err


def test_values_of_secrets_are_not_shown(api: Api, deploy: Deploy) -> None:
    secret = "kind: Secret\nmetadata: {name: salt}\nstringData: {pepper: hunter2}"
    done = deploy("--yes", change=[("# What", f"apiVersion: v1\n{secret}\n---\n#")])
    assert done.code == 0, done.err
    assert "create Secret/salt" in done.out
    assert "pepper: '*** (after)'" in done.out
    assert "hunter2" not in done.out + done.err


def test_json_tells_it_all_in_one_document(deploy: Deploy) -> None:
    done = deploy("--yes", "--json")
    told = json.loads(done.out)
    assert (told["state"], told["revision"]) == ("deployed", 1)
    assert {each["level"] for each in told["preflight"]} == {"ok"}
    assert [each["action"] for each in told["changes"]] == ["create"] * 3


@pytest.mark.parametrize(
    ("operator", "sentences"),
    [
        (
            house.cannot_pull,
            ["trivium-1-gpu ray-worker: ImagePullBackOff", "not found", "check the image's name"],
        ),
        (house.crashes, ["torch.OutOfMemoryError: CUDA out of memory", "| shutting down"]),
        (house.refuses_settings, ["application trivium: DEPLOY_FAILED", "no price for model 'x'"]),
    ],
)
def test_what_is_hopeless_is_said_at_once(
    operator: object, sentences: list[str], api: Api, deploy: Deploy
) -> None:
    api.operator = operator  # type: ignore[assignment]
    done = deploy("--yes")
    assert done.code == 1
    for sentence in sentences:
        assert sentence in done.err
    assert states(api) == ["failed"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ([("args:\n", "args:\n          gateway: {prot: 1}\n")], "gateway.prot: unknown key"),
        ([("claimName: trivium-models", "claimName: models")], '"models" not found'),
        ([("key: ledger-password", "key: password")], "couldn't find key password"),
        ([("gpu: a10g", "gpu: h100")], "Unschedulable"),
        ([('cpu: "8", memory: 32Gi }', 'cpu: "64", memory: 32Gi }')], "Unschedulable"),
    ],
)
def test_manifests_that_cannot_run_do_not_serve(
    deploy: Deploy, change: list[tuple[str, str]], sentence: str
) -> None:
    """Also where nobody looked before."""
    ignored = [each for check in CHECKS for each in ("--ignore", check)]
    done = deploy("--yes", *ignored, "--timeout", "1", change=change)
    assert done.code == 1
    assert "serves" not in done.out
    assert sentence in done.err


@pytest.mark.parametrize(
    ("operator", "sentences"),
    [
        (
            house.cannot_schedule,
            ["Unschedulable: 0/2 nodes are available", "match node selector and tolerations"],
        ),
        (house.warms_up_forever, ["roads are asked, waiting for knowledge"]),
        (house.only_an_event, ["InvalidRayServiceSpec: The RayService spec is invalid"]),
    ],
)
def test_what_may_still_come_is_waited_for_until_time_is_up(
    operator: object, sentences: list[str], api: Api, deploy: Deploy
) -> None:
    api.operator = operator  # type: ignore[assignment]
    done = deploy("--yes", "--timeout", "1")
    assert done.code == 1
    assert "not ready after 1 s" in done.err
    for sentence in sentences:
        assert sentence in done.err


def test_roads_that_cannot_be_asked_need_not_be(api: Api, deploy: Deploy) -> None:
    def behind_a_policy(api: Api, service: Object) -> None:
        house.succeeds(api, service)
        api.pages.clear()

    api.operator = behind_a_policy
    done = deploy("--yes", "--timeout", "1")
    assert done.code == 1
    assert "allow it or pass --no-ask" in done.err
    assert deploy("--yes", "--no-ask").code == 0


def test_only_the_last_ten_revisions_are_kept(api: Api, deploy: Deploy) -> None:
    for number in range(12):
        deploy("--yes", change=[("trivium:1-gpu", f"trivium:{number}-gpu")])
    assert len(states(api)) == 10
