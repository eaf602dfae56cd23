"""What `triptych doctor` checks of a home's files: every byte of every artifact, and the pointers."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from scripts.doctor.check import Check, State
from store.artifact import (
    DamagedArtifactError,
    NotPublishedError,
    artifacts,
    read_manifest,
    read_pointer,
    verify,
)
from store.home import Home
from store.ledger import read_ledger
from store.lmdb_file import DATA_FILE
from store.locks import abandoned

_CACHE = "cache"
_LOOK_THROUGH = """
import sys
from pathlib import Path
from encoder.text.cache import inspect_text_cache
print(*inspect_text_cache(Path(sys.argv[1])))
"""
_UNIT = 1e-3
_NAMES = {
    "export": "exports",
    "text_model": "text models",
    "model": "models",
    "index": "indexes",
    "report": "reports",
}
_MAKES = {
    "export": "triptych export",
    "text_model": "triptych train",
    "model": "triptych train",
    "index": "triptych reindex",
    "report": "triptych evaluate",
}


def file_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of exports, models, indexes, reports and of what serves."""
    parents = {
        "export": home.exports,
        "text_model": home.text_models,
        "model": home.models,
        "index": home.indexes,
        "report": home.reports,
    }
    for kind, parent in parents.items():
        yield from artifact_checks(kind, parent)
    yield latest_check(home)
    yield current_check(home)
    yield from model_check(home)
    yield from text_checks(home)
    yield cache_check(home)
    yield from erased_check(home)
    yield leftover_check(home, parents.values())


def artifact_checks(kind: str, parent: Path) -> Iterator[Check]:
    """Yield a failed check for each damaged artifact of a kind, and one that counts the sound ones."""
    name, ids = _NAMES[kind], [one for one in artifacts(parent) if one != _CACHE]
    sound = 0
    for artifact_id in tqdm(ids, desc=name, unit="artifact", leave=False, disable=None):
        try:
            found = verify(parent / artifact_id).get("kind")
            if found != kind:
                raise DamagedArtifactError(parent / artifact_id, f"is a {found!r}, not a {kind}")
        except DamagedArtifactError as error:
            hint = f"restore it, or remove {parent / artifact_id} and make another: {_MAKES[kind]}"
            yield Check(name, State.FAILED, str(error), hint)
        else:
            sound += 1
    if sound == len(ids):
        yield Check(name, State.OK, f"{sound}, every byte as it was written" if ids else "none")


def latest_check(home: Home) -> Check:
    """Check that models/LATEST names an existing model, with its text model and its export."""
    try:
        model = read_pointer(home.latest_model, home.models)
        facts = read_manifest(model)
    except NotPublishedError:
        return Check("LATEST", State.WARNING, "no model yet", "triptych train --home HOME")
    except DamagedArtifactError as error:
        return Check("LATEST", State.FAILED, str(error), "triptych train --home HOME")
    if facts["text_model_id"] not in artifacts(home.text_models):
        found = f"model {model.name} needs text model {facts['text_model_id']}, which is missing"
        return Check("LATEST", State.FAILED, found, "restore it, or triptych train --home HOME")
    if facts["export_id"] not in artifacts(home.exports):
        found = f"model {model.name} was trained on export {facts['export_id']}, which is gone"
        return Check("LATEST", State.WARNING, found, "serving works, evaluate does not: train again")
    return Check("LATEST", State.OK, f"model {model.name}, dim {facts['dim']}")


def current_check(home: Home) -> Check:
    """Check that CURRENT names an index that loads, with a model that fits it."""
    try:
        from indexer.publish import current_index, load_index
    except (ImportError, RuntimeError) as error:  # a GPU build of FAISS without CUDA raises the second
        return Check("CURRENT", State.FAILED, str(error), "install FAISS and ONNX Runtime: see above")
    serving = "triptych reindex --home HOME, or triptych index rollback"
    try:
        pair = load_index(home, current_index(home).name)
    except NotPublishedError:
        return Check("CURRENT", State.WARNING, "nothing is published", "triptych reindex --home HOME")
    except (DamagedArtifactError, LookupError) as error:
        return Check("CURRENT", State.FAILED, str(error), serving)
    found = f"index {pair.index.index_id} of model {pair.model.model_id}, {len(pair.index):,} items"
    if pair.index.without_vector:
        found += f" and {pair.index.without_vector:,} without a vector"
    if not len(pair.index):
        return Check("CURRENT", State.WARNING, found, "no item is available: import items, then reindex")
    if _latest_id(home) not in (None, pair.model.model_id):
        return Check("CURRENT", State.WARNING, found, "a newer model waits: triptych reindex --home HOME")
    return Check("CURRENT", State.OK, found)


def model_check(home: Home) -> Iterator[Check]:
    """Check that the latest model, if any, loads, is finite, and ranks items differently by user."""
    try:
        from encoder.model_files import METRICS_FILE
        from encoder.runtime import Model, NotFiniteModelError

        model = read_pointer(home.latest_model, home.models)
        Model.load(model, check=False).check_finite()
        people = json.loads((model / METRICS_FILE).read_text("utf-8")).get("people")
    except NotFiniteModelError as error:
        yield Check("model", State.FAILED, str(error), "triptych train --home HOME, then triptych reindex")
    except (ImportError, NotPublishedError):
        return  # said by the checks of the machine and of LATEST
    except (DamagedArtifactError, OSError) as error:
        if _is_sound(home):  # else said by the checks of the models or of LATEST
            yield Check(
                "model", State.FAILED, str(error), "triptych train --home HOME, then triptych reindex"
            )
    else:
        alike, checked = (people["alike"], people["checked"]) if people else (0, 0)
        found = f"it tells nothing apart for {alike} of {checked} people looked at" if people else "finite"
        if alike * 2 > checked:
            hint = "more behaviours, texts or friends would help; until then the order of items says little"
            yield Check("model", State.WARNING, found, hint)
        else:
            yield Check("model", State.OK, found)


def _is_sound(home: Home) -> bool:
    """Return whether every byte of the latest model is as it was written."""
    try:
        verify(read_pointer(home.latest_model, home.models))
    except DamagedArtifactError:
        return False
    return True


def text_checks(home: Home) -> Iterator[Check]:
    """Check that the text models of LATEST and CURRENT load and encode."""
    try:
        from encoder.text import NotATextModelError, TextEncoder
    except ImportError as error:
        yield Check("text model", State.FAILED, str(error), "install ONNX Runtime: see above")
        return
    for text_model_id in text_models_in_use(home):
        try:
            encoder = TextEncoder.load(home.text_models / text_model_id)
        except (DamagedArtifactError, NotATextModelError) as error:
            yield Check("text model", State.FAILED, str(error), "restore it, or triptych train --home HOME")
            continue
        squared = float((encoder.encode(["a text"]) ** 2).sum())
        found = f"{text_model_id} runs on {encoder.provider.removesuffix('ExecutionProvider')}"
        if abs(squared - 1) > _UNIT:
            found = f"{found}, but a vector has squared length {squared:.3f}, not 1"
            yield Check("text model", State.FAILED, found, "remove its directory, then train again")
        else:
            yield Check("text model", State.OK, found)


def cache_check(home: Home) -> Check:
    """Check that every page and every vector of the text cache is what was written.

    It is read in a process of its own, so that no damage can end this one.
    """
    name, hint = "text cache", "nothing: whoever opens it next makes anew what is damaged"
    if not (home.text_cache / DATA_FILE).exists():
        return Check(name, State.OK, "none yet")
    command = [sys.executable, "-c", _LOOK_THROUGH, str(home.text_cache)]
    look = subprocess.run(command, capture_output=True, text=True, check=False)
    if look.returncode:
        reason = look.stderr.strip().rpartition("\n")[2] or f"reading it ended with {look.returncode}"
        return Check(name, State.WARNING, reason, hint)
    vectors, damaged = map(int, look.stdout.split())
    if damaged:
        return Check(name, State.WARNING, f"{damaged:,} of {vectors:,} vectors are damaged", hint)
    return Check(name, State.OK, f"{vectors:,} vectors, every byte as it was written")


def text_models_in_use(home: Home) -> list[str]:
    """Return the ids of the text models of LATEST and CURRENT whose manifests can be read."""
    found = set()
    for pointer, parent in ((home.latest_model, home.models), (home.current_index, home.indexes)):
        try:
            found.add(str(read_manifest(read_pointer(pointer, parent))["text_model_id"]))
        except (NotPublishedError, DamagedArtifactError):
            continue  # said by the check of that pointer
    return sorted(found)


def erased_check(home: Home) -> Iterator[Check]:
    """Yield a warning where an index holds vectors of users erased since; no search finds them."""
    from indexer.without_erased import erased_in

    try:
        erasures = read_ledger(home.erasures)
    except DamagedArtifactError:
        return  # said by the check of the ledger
    found = []
    for index_id in artifacts(home.indexes) if erasures else ():
        try:
            count = len(erased_in(home, index_id, erasures))
        except (DamagedArtifactError, OSError, ValueError):
            continue  # said by the check of the indexes
        found += [f"index {index_id}: {count}"] if count else []
    if found:
        hint = "serve the home, or triptych reindex --home HOME and triptych index prune --keep 1 --home HOME"
        warning = f"vectors of erased people lie in files that nobody searches: {', '.join(found)}"
        yield Check("erased people", State.WARNING, warning, hint)


def leftover_check(home: Home, parents: Any) -> Check:
    """Check for directories that killed builds and prunes left behind; none of them is ever read."""
    left = [
        path
        for parent in parents
        for name in (".building-*", ".pruned-*")
        for path in abandoned(parent, name)
    ]
    left += abandoned(home.path, ".new-*")
    if left:
        return Check("leftovers", State.WARNING, ", ".join(map(str, left)), "of killed commands: remove them")
    begun = abandoned(home.indexes, ".spool-*")
    if begun:
        hint = "of a reindex that was killed: run it again, which goes on there, or remove them"
        return Check("leftovers", State.WARNING, ", ".join(map(str, begun)), hint)
    return Check("leftovers", State.OK, "none")


def _latest_id(home: Home) -> str | None:
    try:
        return read_pointer(home.latest_model, home.models).name
    except (NotPublishedError, DamagedArtifactError):
        return None
