"""What of the documents programs make is what they make now, and says what the code says."""

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.documents.api_page import ProtoError, api_page
from scripts.documents.diagrams import svg
from scripts.documents.drawn import DIAGRAMS
from store.tables import TABLES
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
API = (DOCS / "api.md").read_text("utf-8")


def test_the_reference_of_the_api_is_that_of_the_proto() -> None:
    assert api_page(ROOT / "proto") == API, "run python -m scripts.documents api"


@pytest.mark.parametrize("stubs", [triptych_pb2, ingest_pb2])
def test_every_method_message_and_field_is_in_the_reference(stubs: object) -> None:
    proto = stubs.DESCRIPTOR
    for service in proto.services_by_name.values():
        assert f"\n## {service.name}\n" in API
        for method in service.methods:
            assert f"\n### {method.name}\n" in API
    for message in proto.message_types_by_name.values():
        section = API.split(f"\n### {message.name}\n")[1].split("\n#")[0]
        assert re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE) == [one.name for one in message.fields]
    headings = re.findall(r"^#+ (.+)$", API, re.MULTILINE)
    assert len(headings) == len(set(headings))  # each has an anchor of its own
    anchors = {heading.lower() for heading in headings}
    assert set(re.findall(r"\]\(#(\w+)\)", API)) <= anchors


def test_comments_become_text_that_is_safe_in_a_table(tmp_path: Path) -> None:
    folder = tmp_path / "triptych" / "v1"
    folder.mkdir(parents=True)
    (folder / "a.proto").write_text(
        'syntax = "proto3";\npackage triptych.v1;\n'
        "// Asks.\n//\n// Twice.\nservice Retrieval {\n"
        "  // One <thing>.\n  rpc Query(Asked) returns (Asked);\n}\n"
        "// What\n// is asked.\nmessage Asked {\n  // a | b\n  map<string, uint64> counts = 1;\n"
        "  optional bool sure = 2; // or not\n}\n"
    )
    page = api_page(tmp_path)
    assert "## Retrieval\n\nAsks.\n\nTwice.\n\n### Query" in page
    assert "One &lt;thing&gt;." in page
    assert "### Asked\n\nWhat is asked.\n" in page
    assert "| `counts` | map of string to uint64 | a \\| b |" in page
    assert "| `sure` | optional bool | or not |" in page


def test_a_proto_that_does_not_compile_is_named(tmp_path: Path) -> None:
    (tmp_path / "triptych" / "v1").mkdir(parents=True)
    (tmp_path / "triptych" / "v1" / "a.proto").write_text("message {")
    with pytest.raises(ProtoError, match=re.escape(str(tmp_path))):
        api_page(tmp_path)


@pytest.mark.parametrize("name", sorted(DIAGRAMS))
def test_a_diagram_is_what_is_drawn_now(name: str) -> None:
    drawn = svg(DIAGRAMS[name])
    assert (DOCS / "images" / f"{name}.svg").read_text("utf-8") == drawn, (
        "run python -m scripts.documents diagrams"
    )
    assert ElementTree.fromstring(drawn).find("{http://www.w3.org/2000/svg}title").text  # noqa: S314  # ours


def test_arrows_join_boxes_that_are_there_and_no_box_lies_on_another() -> None:
    for diagram in DIAGRAMS.values():
        assert {end for one in diagram.arrows for end in (one.start, one.end)} == diagram.boxes.keys()
        boxes = list(diagram.boxes.values())
        for place, one in enumerate(boxes):
            for other in boxes[place + 1 :]:
                apart_x = abs(one.middle[0] - other.middle[0]) >= 168
                apart_y = abs(one.middle[1] - other.middle[1]) >= (one.height + other.height) / 2
                assert apart_x or apart_y, (one.text, other.text)


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_data_guide_has_the_columns_of_the_store(table: object) -> None:
    section = (DOCS / "data.md").read_text("utf-8").split(f"\n## {table.name}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\*\*)?(\w+)(?:\*\*)? \| [^|]* \| ([^|]*)\|", section, re.MULTILINE)[1:]
    assert [name for _, name, _ in rows] == [column.name for column in table.columns]
    assert [bool(bold) for bold, _, _ in rows] == [column.required for column in table.columns]
    defaults = [default.strip().strip("`") for _, _, default in rows]
    assert defaults == [column.default.strip("'").replace("NULL", "") for column in table.columns]


def test_every_picture_of_the_documents_is_there_and_used() -> None:
    used = {
        (page.parent / image).resolve()
        for page in DOCS.rglob("*.md")
        for image in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text("utf-8"))
    }
    assert {path.resolve() for path in (DOCS / "images").iterdir() if path.is_file()} <= used
    assert all(path.exists() for path in used)
