"""Alert rules and the dashboard ask for what a running server tells, and the rules fire when they should."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
import yaml

from server.app import running
from server.config import ServerConfig
from store.home import Home
from tests.live_server import copy_home
from tests.server.telemetry.scrape import scrape
from triptych_client.pb.v1 import triptych_pb2 as pb
from triptych_client.pb.v1 import triptych_pb2_grpc as rpc

FILES = Path(__file__).resolve().parents[3] / "deploy" / "observability"
KNOWN = {"instance", "job", "le", "tenant"}  # labels of a scrape, of a histogram, and of homes of tenants
SELECTOR = re.compile(r"\b(triptych_\w+)(?:\{([^}]*)\})?")
LABEL = re.compile(r"(\w+)\s*(?:!=|=~|!~|=)")
GROUPED = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


def alerts() -> list[dict[str, object]]:
    (group,) = yaml.safe_load((FILES / "alerts.yml").read_text("utf-8"))["groups"]
    return list(group["rules"])


def queries() -> dict[str, str]:
    """Every query of the rules and of the dashboard, by where it stands."""
    found = {f"alert {rule['alert']}": str(rule["expr"]) for rule in alerts()}
    dashboard = json.loads((FILES / "dashboard.json").read_text("utf-8"))
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            found[f"panel {panel['title']} {target['refId']}"] = target["expr"]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found[f"variable {variable['name']}"] = variable["query"]["query"]
    return found


@pytest.fixture(scope="module")
def told(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """The labels of every series that a running server tells, by its name."""
    home = copy_home(small_home, tmp_path_factory.mktemp("files") / "home")
    with running(ServerConfig(home, port=0, metrics_port=0, grace_seconds=1)) as address:
        with grpc.insecure_channel(address) as channel:
            rpc.RetrievalStub(channel).Query(pb.QueryRequest(user_id="u00001"), timeout=60)
        found = scrape(home)
    labels: dict[str, set[str]] = {}
    for sample in found.samples():
        labels.setdefault(sample.name, set()).update(sample.labels)
    labels.setdefault("triptych_drift_psi", {"quantity"})  # told once enough people were sampled
    return labels


def test_every_query_asks_for_what_is_told(told: dict[str, set[str]]) -> None:
    wrong = []
    for place, query in queries().items():
        names = SELECTOR.findall(query)
        assert names, place
        known = KNOWN.union(*(told.get(name, set()) for name, _ in names))
        wrong += [f"{place}: {name}" for name, _ in names if name not in told]
        wrong += [
            f"{place}: {name} has no label {label}"
            for name, selector in names
            for label in LABEL.findall(selector)
            if label not in told.get(name, set()) | KNOWN
        ]
        grouped = [label.strip() for labels in GROUPED.findall(query) for label in labels.split(",")]
        wrong += [f"{place}: no label {label}" for label in grouped if label and label not in known]
    assert wrong == []


def test_every_metric_is_on_the_dashboard_or_in_a_rule(told: dict[str, set[str]]) -> None:
    asked = {name for query in queries().values() for name, _ in SELECTOR.findall(query)}
    families = {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in told}
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in asked} == families


def test_every_alert_says_what_is_wrong_and_is_explained() -> None:
    guide = (FILES.parents[1] / "docs" / "operations.md").read_text("utf-8")
    for rule in alerts():
        assert rule["labels"]["severity"] in ("critical", "warning")  # type: ignore[index]
        assert rule["annotations"]["summary"]  # type: ignore[index]
        assert f"**{rule['alert']}**" in guide
    tested = yaml.safe_load((FILES / "alerts_test.yml").read_text("utf-8"))["tests"]
    names = {test["name"] for test in tested}
    assert names == {f"{rule['alert']} {does}" for rule in alerts() for does in ("fires", "does not")}


@pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (Debian: apt-get install prometheus)"
)
def test_rules_fire_when_they_should() -> None:
    for words in (["check", "rules", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        ended = subprocess.run(["promtool", *words], cwd=FILES, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr


def test_every_message_that_the_guide_explains_is_one_of_ours() -> None:
    """Each part of a message between the places where values stand is in the source."""
    root = FILES.parents[1]
    guide = (root / "docs" / "operations.md").read_text("utf-8").split("\n## Messages\n")[1]
    source = " ".join(
        re.sub(r'"\s*\n?\s*f?"', "", path.read_text("utf-8"))
        for folder in ("clients", "scripts", "server", "store", "indexer", "encoder")
        for path in sorted((root / folder).rglob("*.py"))
    )
    messages = re.findall(r"^\| `([^`]+)` \|", guide, re.MULTILINE)
    assert len(messages) > 15
    parts = [part.strip() for message in messages for part in message.split("…")]
    assert [part for part in parts if part not in source] == []
