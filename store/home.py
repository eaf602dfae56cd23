"""Where everything of one installation lies."""

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
        """What queries need of users, packed; derived from the live store."""
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
        """Texts that were encoded already, by language model and content."""
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
        """Checkpoints of training that has not ended, and TensorBoard's files."""
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
        """Empty file that is held by whoever changes CURRENT, or loads what it names to serve it."""
        return self.path / "CURRENT.lock"

    @property
    def reports(self) -> Path:
        """Evaluation and benchmark results."""
        return self.path / "reports"

    @property
    def rejects(self) -> Path:
        """Rows that an import refused."""
        return self.path / "rejects"

    @property
    def erasures(self) -> Path:
        """The ledger of erasures, beside the exports that it hides people from."""
        return self.path / LEDGER

    @property
    def audit_log(self) -> Path:
        """Who asked for what about a person, as JSON lines."""
        return self.path / "audit.jsonl"

    @property
    def server_file(self) -> Path:
        """JSON with the address, process id and identity of the running server, which has to confirm it."""
        return self.path / "server.json"
