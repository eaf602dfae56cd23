"""An index in Milvus: a collection for each, which finds candidates in place of FAISS.

`connection` reaches Milvus and names what goes wrong, `collection` has what lies there of an index, and
`search` asks it. indexer/building/milvus.py moves an index there.
"""

from indexer.milvus.collection import (
    BUCKET,
    BUCKETS,
    CELL,
    EF_CONSTRUCTION,
    MOST_TERMS,
    CollectionFacts,
    M,
    aliases_of,
    bounds_of,
    build_lists,
    collection_of,
    create_collection,
    drop_collection,
    entity_of,
    load_built,
    point_alias,
    read_facts,
    write_facts,
)
from indexer.milvus.connection import (
    MilvusAddress,
    MilvusConnection,
    MilvusUnreachableError,
    MissingMilvusError,
    NoCollectionError,
    OldMilvusError,
)
from indexer.milvus.search import MilvusSearch, expression_of

__all__ = [
    "BUCKET",
    "BUCKETS",
    "CELL",
    "EF_CONSTRUCTION",
    "MOST_TERMS",
    "CollectionFacts",
    "M",
    "MilvusAddress",
    "MilvusConnection",
    "MilvusSearch",
    "MilvusUnreachableError",
    "MissingMilvusError",
    "NoCollectionError",
    "OldMilvusError",
    "aliases_of",
    "bounds_of",
    "build_lists",
    "collection_of",
    "create_collection",
    "drop_collection",
    "entity_of",
    "expression_of",
    "load_built",
    "point_alias",
    "read_facts",
    "write_facts",
]
