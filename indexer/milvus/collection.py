"""The collections of indexes in Milvus: an entity for each item, and what is known of each collection.

An entity has the vector of an item, the hashes of its terms, and for each attribute with numbers or moments
the least and the greatest.
"""

import json
import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from indexer.files import FloatArray, ItemChange, hash_of
from indexer.filters import terms_of
from indexer.milvus.connection import CALL_SECONDS, MilvusConnection, MilvusUnreachableError
from indexer.search import FilterPolicy, SearchParams
from store.attributes import parse_attributes
from store.tables import MAX_ID_BYTES

FACTS = "triptych_facts"  # the collection that says what is known of the others
FACTS_DIM = 2  # of its vectors, which mean nothing: Milvus wants one in each collection
PREFIX = "triptych_index_"
ID, VECTOR, TERMS, BUCKET = "item_id", "vector", "terms", "bucket"
BUCKETS = 100  # an item is in one by its id, so that an expression can select a share of them
M, EF_CONSTRUCTION = 32, 200  # of a graph
CELL = "cell"  # of the items that a move brought: an expression selects whole clusters by it
MOST_TERMS = 4_096  # of an item, by Milvus's own bound
_BUILD_SECONDS = 600.0  # without progress
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class CollectionFacts:
    """What is known of a finished collection.

    Attributes:
        items, dim: of the main part of its index.
        numbers, moments: attributes that have numbers and moments, by which fields are numbered.
        search_params: efSearch, or nprobe of lists, that reached the ANN recall.
        recall: that it reached.
        policy: of filtered searches.
        lists: number of lists, of each segment at most, that its items are divided into; 0 for a graph.
    """

    items: int
    dim: int
    numbers: tuple[str, ...]
    moments: tuple[str, ...]
    search_params: SearchParams
    recall: float
    policy: FilterPolicy
    lists: int = 0

    @property
    def tuned_to(self) -> str:
        """What is searched, and how much of it, for a person."""
        if not self.lists:
            return f"a graph at efSearch {self.search_params.ef_search}"
        return f"nprobe {self.search_params.nprobe} of {self.lists} lists"

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        fields = {
            "items": self.items,
            "dim": self.dim,
            "numbers": self.numbers,
            "moments": self.moments,
            "search": self.search_params.as_json(),
            "recall": self.recall,
            "filters": self.policy.as_json(),
            "lists": self.lists,
        }
        return json.dumps(fields)

    @classmethod
    def from_json(cls, text: str) -> "CollectionFacts":
        """Read what `to_json` wrote; facts of the first versions are of graphs, and do not say so."""
        said = json.loads(text)
        return cls(
            said["items"],
            said["dim"],
            tuple(said["numbers"]),
            tuple(said["moments"]),
            SearchParams.from_json(said["search"]),
            said["recall"],
            FilterPolicy.from_json(said["filters"]),
            said.get("lists", 0),
        )


def collection_of(index_id: str) -> str:
    """Return the name of the collection of an index."""
    return PREFIX + index_id.replace("-", "_")


def read_facts(connection: MilvusConnection, index_id: str) -> CollectionFacts | None:
    """Return what is known of the collection of an index; None where it has none that is finished."""
    client, name = connection.client, collection_of(index_id)
    if not connection.call(lambda: client.has_collection(FACTS)):
        return None
    found = connection.call(
        lambda: client.query(
            FACTS, ids=[name], output_fields=["facts"], consistency_level="Strong", timeout=CALL_SECONDS
        )
    )
    if not found or not connection.call(lambda: client.has_collection(name)):
        return None
    return CollectionFacts.from_json(found[0]["facts"])


def point_alias(connection: MilvusConnection, alias: str, index_id: str) -> None:
    """Let an alias name the collection of an index; whatever it named before, in one step."""
    client, name = connection.client, collection_of(index_id)

    def point() -> None:
        known = aliases_of(connection, "")
        (client.alter_alias if alias in known else client.create_alias)(name, alias)

    connection.call(point)


def aliases_of(connection: MilvusConnection, collection: str) -> list[str]:
    """Return the aliases of a collection; those of all for ""."""
    said = connection.call(lambda: connection.client.list_aliases(collection_name=collection))
    return list(said["aliases"] if isinstance(said, dict) else said)


def create_collection(connection: MilvusConnection, index_id: str, dim: int, lists: int = 0) -> None:
    """Make the collection of an index, empty and unfinished, with so many lists, or a graph for 0."""
    types, client = connection.module.DataType, connection.client
    schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
    schema.add_field(ID, types.VARCHAR, is_primary=True, max_length=MAX_ID_BYTES)
    schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=dim)
    schema.add_field(TERMS, types.ARRAY, element_type=types.INT64, max_capacity=MOST_TERMS)
    schema.add_field(BUCKET, types.INT16)
    name, built = collection_of(index_id), _index_params(connection, lists)
    connection.call(
        lambda: client.create_collection(name, schema=schema, index_params=built, consistency_level="Bounded")
    )


def build_lists(connection: MilvusConnection, index_id: str, lists: int) -> None:
    """Begin to build lists over the items of a collection, in place of its graph; `load_built` waits."""
    client, name = connection.client, collection_of(index_id)
    connection.call(lambda: client.release_collection(name))
    connection.call(lambda: client.drop_index(name, VECTOR))
    connection.call(lambda: client.create_index(name, _index_params(connection, lists)))


def _index_params(connection: MilvusConnection, lists: int) -> Any:
    params = connection.client.prepare_index_params()
    kind = "IVF_FLAT" if lists else "HNSW"
    built = {"nlist": lists} if lists else {"M": M, "efConstruction": EF_CONSTRUCTION}
    # As one text: the client library makes a parameter of each, of which milvus-lite takes no notice.
    params.add_index(VECTOR, index_type=kind, metric_type="IP", params={"params": built})
    return params


def load_built(connection: MilvusConnection, index_id: str, items: int) -> None:
    """Wait until the graph or the lists of a collection have so many items, and have searches use them.

    Milvus builds them after a flush, and goes on comparing every vector, or by a provisional graph, until
    the node that searches has taken the finished ones, which may be long after; whatever is measured before
    tells nothing of later. A collection that is loaded anew has them at once.

    Raises:
        MilvusUnreachableError: nothing was added to it for ten minutes.
    """
    client, name = connection.client, collection_of(index_id)
    built, deadline = -1, 0.0
    while built < items:
        told = connection.call(lambda: client.describe_index(name, VECTOR, timeout=CALL_SECONDS))
        if int(told["indexed_rows"]) != built:
            built, deadline = int(told["indexed_rows"]), time.monotonic() + _BUILD_SECONDS
        elif time.monotonic() > deadline:
            reason = f"{built} of {items} items are indexed, and no more for {_BUILD_SECONDS:.0f} s"
            raise MilvusUnreachableError(connection.uri, reason)
        else:
            time.sleep(_PAUSE_SECONDS)
    connection.call(lambda: client.release_collection(name))
    connection.call(lambda: client.load_collection(name))


def write_facts(connection: MilvusConnection, index_id: str, facts: CollectionFacts) -> None:
    """Write what is known of the collection of an index, which is finished by that."""
    name = collection_of(index_id)
    types, client = connection.module.DataType, connection.client

    def write() -> None:
        if not client.has_collection(FACTS):
            schema = client.create_schema(auto_id=False, enable_dynamic_field=True)
            schema.add_field("name", types.VARCHAR, is_primary=True, max_length=255)
            schema.add_field(VECTOR, types.FLOAT_VECTOR, dim=FACTS_DIM)
            built = client.prepare_index_params()
            built.add_index(VECTOR, index_type="FLAT", metric_type="IP")
            client.create_collection(FACTS, schema=schema, index_params=built, consistency_level="Strong")
        client.load_collection(FACTS)
        client.upsert(FACTS, [{"name": name, VECTOR: [1.0] * FACTS_DIM, "facts": facts.to_json()}])

    connection.call(write)


def drop_collection(connection: MilvusConnection, index_id: str) -> bool:
    """Remove the collection of an index; return whether there was a finished one."""
    client, name = connection.client, collection_of(index_id)
    known = read_facts(connection, index_id) is not None
    if connection.call(lambda: client.has_collection(FACTS)):
        connection.call(lambda: client.delete(FACTS, ids=[name]))
    if connection.call(lambda: client.has_collection(name)):
        for alias in aliases_of(connection, name):
            connection.call(lambda alias=alias: client.drop_alias(alias))  # type: ignore[misc]
        connection.call(lambda: client.drop_collection(name))
    return known


def entity_of(
    item_id: str, vector: FloatArray, terms: Iterable[int], bounds: Mapping[str, float]
) -> dict[str, Any]:
    """Return an item as an entity of its collection; `bounds` are fields of numbers and moments."""
    bucket = hash_of(item_id) % BUCKETS
    return {ID: item_id, VECTOR: vector.tolist(), TERMS: list(terms), BUCKET: bucket, **bounds}


def fields_of(change: ItemChange, facts: CollectionFacts) -> tuple[list[int], dict[str, float]]:
    """Return the hashes of the terms of an item, and its fields of numbers and moments."""
    terms, numbers, moments = terms_of(change.kind, parse_attributes(change.attributes))
    bounds: dict[str, float] = {}
    for letter, names, values in (("n", facts.numbers, numbers), ("m", facts.moments, moments)):
        of_name: dict[str, list[float]] = {}
        for name, value in values:
            of_name.setdefault(name, []).append(float(value))
        for name, some in of_name.items():
            if name in names:
                bounds |= bounds_of(letter, names.index(name), min(some), max(some))
    return sorted({term_hash(one) for one in terms}), bounds


def bounds_of(letter: str, number: int, least: float, greatest: float) -> dict[str, float]:
    """Return the fields of the numbers (n) or moments (m) of an attribute, a little wider than they are."""
    low, high = math.nextafter(least, -math.inf), math.nextafter(greatest, math.inf)
    return {f"{letter}{number}_low": low, f"{letter}{number}_high": high}


def term_hash(text: str) -> int:
    """Return the hash of a term, as a whole number that Milvus can hold and read."""
    return hash_of(text) >> 1
