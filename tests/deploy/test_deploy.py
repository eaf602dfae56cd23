"""What lies in deploy/: valid, and it names only options and files that exist."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import options
from server.settings import SettingsSource, flag_of
from tests.test_docs import parse

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = sorted(path for path in (DEPLOY / "kubernetes").glob("*.yaml") if path.stem != "kustomization")
DOCKERFILES = sorted((DEPLOY / "docker").glob("Dockerfile*"))
_VERSION = "1.33"


def documents(file: Path) -> Iterator[dict[str, Any]]:
    return (one for one in yaml.safe_load_all(file.read_text("utf-8")) if one)


def check(manifest: dict[str, Any]) -> None:
    """Raise where Kubernetes would refuse a manifest."""
    import kubernetes_validate  # here, as it takes seconds to load

    kubernetes_validate.validate(manifest, _VERSION, strict=True)


def every_manifest() -> list[dict[str, Any]]:
    return [one for file in MANIFESTS for one in documents(file)]


def of_kind(kind: str) -> dict[str, Any]:
    (found,) = [one for one in every_manifest() if one["kind"] == kind]
    return found


@pytest.mark.parametrize("file", MANIFESTS, ids=[file.stem for file in MANIFESTS])
def test_manifests_are_valid(file: Path) -> None:
    for one in documents(file):
        check(one)


def test_every_manifest_is_applied() -> None:
    (kustomization,) = documents(DEPLOY / "kubernetes" / "kustomization.yaml")
    assert sorted(kustomization["resources"]) == [file.name for file in MANIFESTS]


def test_selectors_and_volumes_name_what_is_there() -> None:
    pod = of_kind("StatefulSet")["spec"]["template"]
    labels = pod["metadata"]["labels"].items()
    selectors = [one["spec"]["selector"] for one in every_manifest() if one["kind"] == "Service"]
    selectors.append(of_kind("PodDisruptionBudget")["spec"]["selector"]["matchLabels"])
    selectors.append(of_kind("NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    assert all(selector.items() <= labels for selector in selectors)
    (container,) = pod["spec"]["containers"]
    claims = of_kind("StatefulSet")["spec"]["volumeClaimTemplates"]
    volumes = {one["name"] for one in pod["spec"]["volumes"]} | {one["metadata"]["name"] for one in claims}
    assert {one["name"] for one in container["volumeMounts"]} == volumes


def test_the_pod_may_do_no_more_than_it_must() -> None:
    pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert pod["automountServiceAccountToken"] is False


def test_the_configuration_of_the_pod_is_one_that_a_server_takes(tmp_path: Path) -> None:
    file = tmp_path / "triptych.toml"
    file.write_text(of_kind("ConfigMap")["data"]["triptych.toml"], "utf-8")
    config = SettingsSource(tmp_path, file).load()
    pod = of_kind("StatefulSet")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert (config.port, config.metrics_port) == (ports["grpc"], ports["metrics"])
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    assert str(config.tls_cert).startswith(tuple(mounts))
    assert config.stop_seconds < pod["terminationGracePeriodSeconds"]


def test_compose_and_images_name_options_that_exist() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    service = compose["services"]["triptych"]
    words = [
        *service["command"],
        *of_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]["args"],
    ]
    for file in DOCKERFILES:
        words += re.findall(r"^CMD \[(.*)\]$", file.read_text("utf-8"), re.MULTILINE)[0:1]
    flags = {word.strip('",') for word in shlex.split(" ".join(words)) if word.strip('",').startswith("--")}
    assert flags <= {flag_of(one) for one in options()} | {"--config", "--home"}
    variables = {f"TRIPTYCH_{one.name.upper()}" for one in options()}
    assert set(service["environment"]) <= variables
    assert service["read_only"] is True
    assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    for name, one in compose["services"].items():
        for volume in one.get("volumes", []):
            source = volume.split(":")[0]
            assert not source.startswith("./observability") or (DEPLOY / source).exists(), (name, source)


def test_the_gateway_of_compose_names_options_that_exist_and_is_reached_from_this_machine_alone() -> None:
    (compose,) = documents(DEPLOY / "compose.yaml")
    gateway = compose["services"]["gateway"]
    parse(gateway["command"])
    assert all(port.startswith("127.0.0.1:") for port in gateway["ports"])  # as it says --insecure
    assert gateway["read_only"] is True


def test_the_gateway_of_kubernetes_is_valid_and_names_options_and_a_server_that_exist() -> None:
    deployment, service = documents(DEPLOY / "kubernetes" / "gateway" / "gateway.yaml")
    for one in (deployment, service):
        check(one)
    pod = deployment["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    (caller,) = of_kind("NetworkPolicy")["spec"]["ingress"][0]["from"]
    assert caller["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (container,) = pod["spec"]["containers"]
    parse(container["args"])
    given = dict(word.removeprefix("--").split("=") for word in container["args"][1:])
    servers = [one["metadata"]["name"] for one in every_manifest() if one["kind"] == "Service"]
    assert given["address"].partition(":")[0] in servers
    assert given["port"] == str(container["ports"][0]["containerPort"])
    assert "insecure" not in given
    assert float(given["grace"]) < pod["spec"]["terminationGracePeriodSeconds"]


def test_the_server_image_runs_as_nobody_special_and_has_no_torch() -> None:
    text = (DEPLOY / "docker" / "Dockerfile").read_text("utf-8")
    assert re.search(r"^USER 10001:10001$", text, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK .*server\.probe", text, re.MULTILINE)
    assert (
        "pip install --no-cache-dir -c constraints.txt ./clients/python '.[cpu,gateway,s3,traces,valkey]'"
        in text
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    assert not [one for one in wanted if re.match(r"(torch|transformers|sentence|tensorboard)", one)]
    copied = set(re.findall(r"^COPY (\w+) \1$", text, re.MULTILINE))
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied


@pytest.mark.parametrize("file", DOCKERFILES, ids=[file.name for file in DOCKERFILES])
def test_images_install_extras_that_exist(file: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for named in re.findall(r"'\.\[([\w,]+)\]'", file.read_text("utf-8")):
        assert set(named.split(",")) <= extras.keys()
