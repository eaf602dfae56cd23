"""The registry of tuned language models: immutable results, found again by an equal request."""

import hashlib
import json
import logging
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from encoder.text.graph import quiet
from encoder.text.source import source_digest
from encoder.text.tuning.loop import TuningResult
from encoder.text.tuning.options import TextTrainingOptions
from store.artifact import build, verify
from store.export import Export

KIND = "tuned_text_model"
METRICS_FILE = "metrics.json"
FOLDER = ".tuned"  # hidden: what lies in text_models itself is ONNX that can serve
_NAMES = ("source", "export_id")  # not part of the id: digests of the content are
_FORMAT = 1  # part of every id: raise it when the same request would give other weights

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TuningRequest:
    """One tuning, adaptation or compression of one model on one export; equal ones share a result.

    Attributes:
        text_models: the result lies below it, at FOLDER/<id>/<id>, with its metrics beside it.
        facts: of the manifest.
    """

    text_models: Path
    facts: dict[str, Any]

    @classmethod
    def of(
        cls,
        text_models: Path,
        source: str,
        folder: Path,
        export: Export,
        method: str,
        options: TextTrainingOptions,
    ) -> "TuningRequest":
        """Make the request for a model whose files lie in `folder`; all are read for their digest.

        Exports of the same rows count as equal: every training makes a new one.
        """
        facts = {
            "kind": KIND,
            "format": _FORMAT,
            "method": method,
            "source": source,
            "source_digest": source_digest(folder),
            "export_id": export.export_id,
            "export_files": export.manifest["files"],
            "options": options.as_json(),
        }
        return cls(text_models, facts)

    @property
    def tuned_id(self) -> str:
        """The id: source and method for readers, and a digest of the whole request."""
        requested = {name: value for name, value in self.facts.items() if name not in _NAMES}
        digest = hashlib.sha256(json.dumps(requested, sort_keys=True).encode()).hexdigest()
        name = re.sub(r"[^a-z0-9]+", "-", Path(self.facts["source"]).name.lower()).strip("-")[:24].strip("-")
        return f"{name or 'model'}-{self.facts['method']}-{digest[:8]}"

    def find(self) -> Path | None:
        """Return the folder of an earlier result, None where there is none.

        Raises:
            DamagedArtifactError: the earlier result is damaged.
        """
        directory = self.text_models / FOLDER / self.tuned_id
        if not directory.exists():
            return None
        verify(directory)
        log.info("text model %s was trained before", self.tuned_id)
        return directory / self.tuned_id

    def publish(self, model: Any, result: TuningResult, more: dict[str, Any]) -> Path:
        """Save a trained SentenceTransformer with its metrics beside it, and return its folder."""
        tuned_id, parent = self.tuned_id, self.text_models / FOLDER
        with build(parent, tuned_id) as draft:
            draft.facts |= self.facts | {"improved": result.improved}
            metrics = asdict(result) | more
            (draft.path / METRICS_FILE).write_text(json.dumps(metrics, indent=2) + "\n", "utf-8")
            with quiet():
                model.to("cpu").save(str(draft.path / tuned_id), create_model_card=False)
        log.info(
            "text model %s: %.0f s, loss %.4f → %.4f", tuned_id, result.seconds, result.before, result.after
        )
        return parent / tuned_id / tuned_id
