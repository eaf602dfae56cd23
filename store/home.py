"""The home: one directory with everything of one installation."""

from dataclasses import dataclass
from pathlib import Path

from store.ledger import LEDGER


@dataclass(frozen=True)
class Home:
    """The paths below one home directory; nothing is created by naming it."""

    path: Path

    @property
    def database(self) -> Path:
        """The live store; one process owns it."""
        return self.path / "views.duckdb"

    @property
    def state(self) -> Path:
        """The derived state: what queries need of users, packed in LMDB."""
        return self.path / "state"

    @property
    def exports(self) -> Path:
        """Immutable Parquet copies of the store."""
        return self.path / "exports"

    @property
    def text_models(self) -> Path:
        """Language models as ONNX, and the cache of encoded texts."""
        return self.path / "text_models"

    @property
    def text_cache(self) -> Path:
        """Vectors of encoded texts, by language model and content."""
        return self.text_models / "cache"

    @property
    def models(self) -> Path:
        """Trained user towers."""
        return self.path / "models"

    @property
    def latest_model(self) -> Path:
        """Pointer to the model that `reindex` takes."""
        return self.models / "LATEST"

    @property
    def training(self) -> Path:
        """Checkpoints of unfinished training, and TensorBoard's files."""
        return self.path / "training"

    @property
    def indexes(self) -> Path:
        """Item indexes."""
        return self.path / "indexes"

    @property
    def current_index(self) -> Path:
        """Pointer to the index that serves."""
        return self.path / "CURRENT"

    @property
    def current_lock(self) -> Path:
        """Empty file, locked while CURRENT is changed or while the index that it names is loaded."""
        return self.path / "CURRENT.lock"

    @property
    def reports(self) -> Path:
        """Evaluation and benchmark results."""
        return self.path / "reports"

    @property
    def rejects(self) -> Path:
        """Rows that imports refused, as JSON lines."""
        return self.path / "rejects"

    @property
    def imports(self) -> Path:
        """Imports of other layouts that were cut off while files were converted."""
        return self.path / "imports"

    @property
    def erasures(self) -> Path:
        """The ledger of erasures: the users whom all exports beside it must hide."""
        return self.path / LEDGER

    @property
    def audit_log(self) -> Path:
        """Erasures and subject access requests, as JSON lines."""
        return self.path / "audit.jsonl"

    @property
    def server_file(self) -> Path:
        """JSON with the address, process id and identity of the running server, which has to confirm it."""
        return self.path / "server.json"
