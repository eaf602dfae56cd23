"""What lies in deploy/kubernetes/machines: valid, and it names options, files and services that exist."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.settings import SettingsSource
from tests.deploy.test_deploy import check
from tests.test_docs import parse

KUBERNETES = Path(__file__).parents[2] / "deploy" / "kubernetes"
MACHINES = KUBERNETES / "machines"
PATCHES = ("owner.yaml", "gateway.yaml")
ELSEWHERE = ("kustomization.yaml", "ray-job.yaml", *PATCHES)  # created by hand, or in part
MANIFESTS = sorted(path for path in MACHINES.glob("*.yaml") if path.name not in ELSEWHERE)


def documents(file: Path) -> Iterator[dict[str, Any]]:
    return (one for one in yaml.safe_load_all(file.read_text("utf-8")) if one)


def of_kind(kind: str, name: str) -> dict[str, Any]:
    found = [one for file in (*MANIFESTS, *KUBERNETES.glob("*.yaml")) for one in documents(file)]
    (one,) = [one for one in found if one["kind"] == kind and one["metadata"]["name"] == name]
    return one


def pod_of(kind: str, name: str) -> dict[str, Any]:
    template: dict[str, Any] = of_kind(kind, name)["spec"]["template"]
    return template


@pytest.mark.parametrize("file", MANIFESTS, ids=[file.stem for file in MANIFESTS])
def test_manifests_are_valid(file: Path) -> None:
    for one in documents(file):
        check(one)


def test_everything_is_applied_and_patches_have_what_they_patch() -> None:
    (kustomization,) = documents(MACHINES / "kustomization.yaml")
    assert [one for one in kustomization["resources"] if not one.startswith("..")] == [
        name for name in kustomization["resources"] if (MACHINES / name).is_file()
    ]
    assert {file.name for file in MANIFESTS} <= set(kustomization["resources"])
    assert sorted(one["path"] for one in kustomization["patches"]) == sorted(PATCHES)
    for one in kustomization["patches"]:
        (patch,) = documents(MACHINES / one["path"])
        assert {"kind": patch["kind"], "name": patch["metadata"]["name"]} == one["target"]
    (owner,) = documents(MACHINES / "owner.yaml")
    assert of_kind("StatefulSet", owner["metadata"]["name"])


@pytest.mark.parametrize(
    ("file", "kind"),
    [("owner.yaml", "StatefulSet"), ("gateway.yaml", "Deployment"), ("replicas.yaml", "Deployment")],
)
def test_what_pods_are_started_with_is_what_the_command_takes(file: str, kind: str) -> None:
    (found,) = [one for one in documents(MACHINES / file) if one["kind"] == kind]
    parse(found["spec"]["template"]["spec"]["containers"][0]["args"])


def test_the_configuration_of_a_replica_is_one_that_a_server_takes(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text(of_kind("ConfigMap", "triptych-replica")["data"]["triptych.toml"], "utf-8")
    config = SettingsSource(tmp_path, file, {"read_only": True}).load()
    pod = pod_of("Deployment", "triptych-replica")["spec"]
    (container,) = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert (config.port, config.metrics_port) == (ports["grpc"], ports["metrics"])
    assert config.stop_seconds < pod["terminationGracePeriodSeconds"]
    mounts = tuple(one["mountPath"] for one in container["volumeMounts"])
    for path in (config.tls_cert, config.owner_ca, config.owner_token_file, config.state_password_file):
        assert str(path).startswith(mounts)
    (owner,) = documents(MACHINES / "owner.yaml")
    given = dict(one.split("=", 1) for one in owner["spec"]["template"]["spec"]["containers"][0]["args"][1:])
    assert config.state_url == given["--state-url"]  # the same cluster, and the same name in it
    assert f"--home={given['--artifacts']}" in container["args"]
    assert config.owner.partition(":")[0] == of_kind("Service", "triptych")["metadata"]["name"]
    valkey = of_kind("Service", "valkey")["metadata"]["name"]
    assert all(f".{valkey}:" in node for node in config.state_url.partition("//")[2].split("/")[0].split(","))


@pytest.mark.parametrize(
    ("kind", "name"),
    [("Deployment", "triptych-replica"), ("StatefulSet", "valkey"), ("Job", "valkey-cluster")],
)
def test_pods_may_do_no_more_than_they_must(kind: str, name: str) -> None:
    spec = pod_of(kind, name)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    claims = of_kind(kind, name)["spec"].get("volumeClaimTemplates", [])
    volumes = {one["name"] for one in spec["volumes"]} | {one["metadata"]["name"] for one in claims}
    containers = [*spec.get("initContainers", []), *spec["containers"]]
    assert {mount["name"] for one in containers for mount in one["volumeMounts"]} == volumes
    for one in containers:
        assert one["securityContext"]["readOnlyRootFilesystem"] is True
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_services_policies_budgets_and_the_autoscaler_name_pods_that_are_there() -> None:
    names = {"triptych-replica": "Deployment", "valkey": "StatefulSet", "valkey-cluster": "Job"}
    labels = {name: pod_of(kind, name)["metadata"]["labels"] for name, kind in names.items()}
    (job,) = documents(MACHINES / "ray-job.yaml")
    labels["triptych-ray"] = job["spec"]["template"]["metadata"]["labels"]
    labels["triptych"] = pod_of("StatefulSet", "triptych")["metadata"]["labels"]
    selectors = []
    for file in MANIFESTS:
        for one in documents(file):
            spec = one.get("spec", {})
            if one["kind"] == "Service":
                selectors.append(spec["selector"])
            elif one["kind"] == "PodDisruptionBudget":
                selectors.append(spec["selector"]["matchLabels"])
            elif one["kind"] == "NetworkPolicy":
                selectors.append(spec["podSelector"]["matchLabels"])
                rules = [*spec.get("ingress", []), *spec.get("egress", [])]
                peers = [peer for rule in rules for peer in (*rule.get("from", []), *rule.get("to", []))]
                selectors += [peer["podSelector"]["matchLabels"] for peer in peers if "app" in str(peer)]
    assert len(selectors) > 8
    for selector in selectors:
        assert any(selector.items() <= one.items() for one in labels.values()), selector
    scaled = of_kind("HorizontalPodAutoscaler", "triptych-replica")["spec"]
    assert scaled["scaleTargetRef"]["name"] == "triptych-replica"
    assert [one["type"] for one in scaled["metrics"]] == ["Pods", "Resource"]


def test_a_replica_is_probed_where_it_listens_and_by_a_name_in_its_certificate() -> None:
    (container,) = pod_of("Deployment", "triptych-replica")["spec"]["containers"]
    port = container["ports"][0]["containerPort"]
    service = of_kind("Service", "triptych-replica")["metadata"]["name"]
    mounts = tuple(one["mountPath"] for one in container["volumeMounts"])
    for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
        command = container[kind]["exec"]["command"]
        given = dict(one.split("=", 1) for one in command if "=" in one)
        assert command[:3] == ["python", "-m", "server.probe"]
        assert given.keys() == {"--address", "--tls-ca", "--tls-name"}
        assert (given["--address"], given["--tls-name"]) == (f"127.0.0.1:{port}", service)
        assert given["--tls-ca"].startswith(mounts)
        assert ("--alive" in command) == (kind != "readinessProbe")


def test_the_metric_that_scales_is_one_that_a_server_tells() -> None:
    from server.telemetry.families import FAMILIES

    pods = of_kind("HorizontalPodAutoscaler", "triptych-replica")["spec"]["metrics"][0]["pods"]
    assert pods["metric"]["name"].removeprefix("triptych_") in {one.name for one in FAMILIES}


def test_the_job_on_ray_is_valid_and_runs_a_command_that_exists() -> None:
    (job,) = documents(MACHINES / "ray-job.yaml")
    check(job)
    template = job["spec"]["template"]
    (container,) = template["spec"]["containers"]
    (entrypoint,) = (one for one in container["args"][0].split("exec ")[1:])
    words = entrypoint.splitlines()[0].split()
    assert words[0] == "triptych"
    parse(words[1:])
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts.keys() == {one["name"] for one in template["spec"]["volumes"]}
    assert words[words.index("--cache") + 1] == mounts["work"]
    (owner,) = documents(MACHINES / "owner.yaml")
    assert f"--artifacts={words[words.index('--home') + 1]}" in str(owner)
    service = of_kind("Service", template["spec"]["subdomain"])["spec"]
    assert service["selector"] == template["metadata"]["labels"]
    assert f".{template['spec']['subdomain']}:{service['ports'][0]['port']}" in container["args"][0]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
