"""Where the candidates of searches come from: FAISS in this process, or Milvus."""

import logging

from indexer.building import move_to_milvus, recall_asked_of, users_to_tune_with
from indexer.index import Elsewhere, Index
from indexer.milvus import MilvusAddress, MilvusConnection, MilvusSearch, point_alias, read_facts
from server.config import ServerConfig
from store.artifact import artifacts
from store.home import Home

log = logging.getLogger(__name__)

MILVUS = "milvus"
ALIAS = "triptych_serves_"


class NoMilvusAddressError(ValueError):
    """Milvus is to be asked, and nobody says where it is."""

    def __init__(self) -> None:
        super().__init__("--index-engine milvus needs --milvus URI, such as http://127.0.0.1:19530")


class MilvusCandidates:
    """The collections of a home in Milvus, as a server uses them.

    Args:
        config: of the server.
        home_id: by which the alias is named.
    """

    def __init__(self, config: ServerConfig, home_id: str = "") -> None:
        """Connect.

        Raises:
            NoMilvusAddressError: the settings do not say where.
            MissingMilvusError, MilvusUnreachableError, OldMilvusError: it cannot be used.
        """
        if not config.milvus:
            raise NoMilvusAddressError
        token = "" if config.milvus_token is None else config.milvus_token.read_text("utf-8").strip()
        self._connection = MilvusConnection(MilvusAddress(config.milvus, token))
        self._alias = ALIAS + home_id[:16]

    def reading(self) -> Elsewhere:
        """Return what opens the collection of an index, which has to be there."""
        return lambda index_id, ids: MilvusSearch(self._connection, index_id, ids)

    def writing(self, home: Home, index_id: str) -> Elsewhere:
        """Make the collection of an index where it has none; return what opens it and passes changes on.

        Raises:
            MilvusUnreachableError, MilvusRecallError: there is none.
        """
        if index_id in artifacts(home.indexes) and read_facts(self._connection, index_id) is None:
            log.info("index %s is not in Milvus yet: moving it there", index_id)
            index = Index.load(home.indexes / index_id)
            move_to_milvus(
                index, self._connection, users_to_tune_with(home.indexes, index), recall_asked_of(index)
            )
        return lambda name, ids: MilvusSearch(self._connection, name, ids, writes=True)

    def serve(self, index_id: str) -> None:
        """Let the alias name the collection of an index, for whoever looks into Milvus from outside."""
        point_alias(self._connection, self._alias, index_id)


def candidates_of(config: ServerConfig, home_id: str = "") -> MilvusCandidates | None:
    """Return where candidates come from by the settings; None for FAISS.  Raises: as MilvusCandidates."""
    return MilvusCandidates(config, home_id) if config.index_engine == MILVUS else None
