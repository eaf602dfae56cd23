"""Make every call of the API by both clients, in a Python that has triptych-client alone: ADDRESS FOLDER."""

import asyncio
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from triptych_client import AsyncClient, Behavior, CallError, Client, Consent, Impression, Item, Text, Tie
from triptych_client.pb.v1 import triptych_pb2 as pb

USER, ITEM = "u00001", "new"


def calls(folder: Path, index_id: str) -> dict[str, Callable[[Any], Any]]:
    """One call of each method, by its name, in an order in which each finds what it needs."""
    views = pb.Views(texts=["dark telescopes and faint galaxies"])
    return {
        "status": lambda client: client.status(),
        "put_items": lambda client: client.put_items(
            [Item(ITEM, "Dark", "a telescope", attributes={"year": 1999})]
        ),
        "find_items": lambda client: client.find_items([ITEM]),
        "append_behaviors": lambda client: client.append_behaviors([Behavior("ann", ITEM)]),
        "append_texts": lambda client: client.append_texts([Text("ann", "galaxies", ITEM)]),
        "put_friends": lambda client: client.put_friends([Tie("ann", USER, weight=2.0)]),
        "append_impressions": lambda client: client.append_impressions(
            [Impression("ann", ITEM, query_id="q")]
        ),
        "set_consent": lambda client: client.set_consent([Consent("ann", "S", share=False)]),
        "apply_log": lambda client: client.apply_log("log"),
        "stream_items": lambda client: client.stream_items([[Item("a")], [Item("b"), Item("c")]]),
        "stream_behaviors": lambda client: client.stream_behaviors(
            [[Behavior("bob", "a")]], request_id="once"
        ),
        "stream_texts": lambda client: client.stream_texts([[Text("bob", "bread")]]),
        "stream_friends": lambda client: client.stream_friends([[Tie("bob", "ann")]]),
        "stream_impressions": lambda client: client.stream_impressions(
            [[Impression("bob", "a", query_id="q")]]
        ),
        "stream_deletions": lambda client: client.stream_deletions([["b"], ["c"]]),
        "delete_items": lambda client: client.delete_items(["a"]),
        "query": lambda client: client.query(user_id=USER, k=5),
        "query_batch": lambda client: client.query_batch([{"user_id": USER}, {"views": views}]),
        "query_stream": lambda client: client.query_stream([{"user_id": USER}, {"item_id": "nowhere"}]),
        "encode_user": lambda client: client.encode_user(views),
        "predict": lambda client: client.predict(USER, [ITEM]),
        "import_folder": lambda client: client.import_folder(folder),
        "export_user": lambda client: client.export_user("ann"),
        "list_attributes": lambda client: client.list_attributes(),
        "get_figures": lambda client: client.get_figures(),
        "query_index": lambda client: client.query_index(index_id, user_id=USER, k=5),
        "read_map": lambda client: client.read_map(limit=20),
        "create_export": lambda client: client.create_export(),
        "list_indexes": lambda client: client.list_indexes(),
        "list_models": lambda client: client.list_models(),
        "list_reports": lambda client: client.list_reports(),
        "get_report": lambda client: client.get_report("nowhere"),
        "publish_index": lambda client: client.publish_index(index_id),
        "rollback_index": lambda client: client.rollback_index(),
        "erase_user": lambda client: client.erase_user("ann"),
    }


def shown(result: Any) -> str:
    return type(result).__name__


def ask(address: str, folder: Path, index_id: str) -> dict[str, str]:
    """What each call of a Client brings: a kind of result, or the reason of an error."""
    outcomes = {}
    with Client(address, timeout=60) as client:
        for name, call in calls(folder, index_id).items():
            try:
                result = call(client)
                outcomes[name] = shown(list(result) if name == "query_stream" else result)
            except CallError as error:
                outcomes[name] = error.reason
    return outcomes


async def ask_async(address: str, folder: Path, index_id: str) -> dict[str, str]:
    """The same of an AsyncClient."""
    outcomes = {}
    async with AsyncClient(address, timeout=60) as client:
        for name, call in calls(folder, index_id).items():
            try:
                result = call(client)
                both = [one async for one in result] if name == "query_stream" else await result
                outcomes[name] = shown(both)
            except CallError as error:
                outcomes[name] = error.reason
    return outcomes


def main() -> None:
    """Print what every call brought, and which distributions Python finds."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    with Client(address, timeout=60) as client:
        index_id = client.status().index_id
    found = {
        "installed": sorted(one.metadata["Name"] for one in importlib.metadata.distributions()),
        "threads": ask(address, folder, index_id),
        "asyncio": asyncio.run(ask_async(address, folder, index_id)),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
