"""What `triptych doctor` checks of a home's files: every byte of every artifact, and the pointers."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

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
from store.objects import CURRENT, KINDS, LATEST, HomeDirectory, Pointer

_LOOK_THROUGH = """
import sys
from pathlib import Path
from encoder.text.cache import inspect_text_cache
print(*inspect_text_cache(Path(sys.argv[1])))
"""
_UNIT = 1e-3
KIND_OF = {
    "exports": "export",
    "text_models": "text_model",
    "models": "model",
    "indexes": "index",
    "reports": "report",
}
_MAKES = {
    "exports": "triptych export",
    "text_models": "triptych train",
    "models": "triptych train",
    "indexes": "triptych reindex",
    "reports": "triptych evaluate",
}


@dataclass(frozen=True)
class ExaminedHome:
    """The artifacts of a home that are examined.

    Attributes:
        home: the directory where those lie that are loaded.
        ids: returns the ids of the artifacts in a folder of the home, wherever they belong.
        named: returns the directory of what a pointer names; raises as `read_pointer`.
    """

    home: Home
    ids: Callable[[str], list[str]]
    named: Callable[[Pointer], Path]

    @classmethod
    def directory(cls, home: Home) -> Self:
        """Return a home that lies in its directory with everything."""

        def named(pointer: Pointer) -> Path:
            return read_pointer(home.path / pointer.name, home.path / pointer.kind)

        return cls(home, HomeDirectory(home).ids, named)


def file_checks(home: Home) -> Iterator[Check]:
    """Yield the checks of exports, models, indexes, reports and of what serves."""
    examined = ExaminedHome.directory(home)
    for kind in KINDS:
        yield from artifact_checks(kind, examined)
    yield from serving_checks(examined)
    yield cache_check(home)
    yield from erased_check(home, artifacts(home.indexes))
    yield leftover_check(home)


def serving_checks(examined: ExaminedHome) -> Iterator[Check]:
    """Yield the checks of the latest model and of the index that serves: both are loaded."""
    yield latest_check(examined)
    yield current_check(examined)
    yield from model_check(examined)
    yield from text_checks(examined)


def artifact_checks(folder: str, examined: ExaminedHome) -> Iterator[Check]:
    """Yield a failed check for each damaged artifact in a folder, and one that counts the sound ones."""
    parent, kind = examined.home.path / folder, KIND_OF[folder]

    def sound(artifact_id: str) -> None:
        found = verify(parent / artifact_id).get("kind")
        if found != kind:
            raise DamagedArtifactError(parent / artifact_id, f"is a {found!r}, not a {kind}")

    yield from checks_of_each(
        folder, examined.ids(folder), str(parent), sound, "every byte as it was written"
    )


def checks_of_each(
    folder: str, ids: Iterable[str], parent: str, examine: Callable[[str], None], sound: str
) -> Iterator[Check]:
    """Yield a failed check for each damaged artifact, and one that counts them where all are sound.

    Args:
        folder: of the home.
        ids: of the artifacts.
        parent: where they lie, a path or URL.
        examine: raises DamagedArtifactError where one is damaged.
        sound: what is said where none is.
    """
    name, count, failed = folder.replace("_", " "), 0, 0
    for artifact_id in tqdm(ids, desc=name, unit="artifact", leave=False, disable=None):
        count += 1
        try:
            examine(artifact_id)
        except DamagedArtifactError as error:
            failed += 1
            hint = f"restore it, or remove {parent}/{artifact_id} and make another: {_MAKES[folder]}"
            yield Check(name, State.FAILED, str(error), hint)
    if not failed:
        yield Check(name, State.OK, f"{count}, {sound}" if count else "none")


def latest_check(examined: ExaminedHome) -> Check:
    """Check that models/LATEST names an existing model, with its text model and its export."""
    try:
        model = examined.named(LATEST)
        facts = read_manifest(model)
    except NotPublishedError:
        return Check("LATEST", State.WARNING, "no model yet", "triptych train --home HOME")
    except DamagedArtifactError as error:
        return Check("LATEST", State.FAILED, str(error), "triptych train --home HOME")
    if facts["text_model_id"] not in examined.ids("text_models"):
        found = f"model {model.name} needs text model {facts['text_model_id']}, which is missing"
        return Check("LATEST", State.FAILED, found, "restore it, or triptych train --home HOME")
    if facts["export_id"] not in examined.ids("exports"):
        found = f"model {model.name} was trained on export {facts['export_id']}, which is gone"
        return Check("LATEST", State.WARNING, found, "serving works, evaluate does not: train again")
    return Check("LATEST", State.OK, f"model {model.name}, dim {facts['dim']}")


def current_check(examined: ExaminedHome) -> Check:
    """Check that CURRENT names an index that loads, with a model that fits it."""
    try:
        from indexer.publish import load_index
    except (ImportError, RuntimeError) as error:  # a GPU build of FAISS without CUDA raises the second
        return Check("CURRENT", State.FAILED, str(error), "install FAISS and ONNX Runtime: see above")
    serving = "triptych reindex --home HOME, or triptych index rollback"
    try:
        pair = load_index(examined.home, examined.named(CURRENT).name)
    except NotPublishedError:
        return Check("CURRENT", State.WARNING, "nothing is published", "triptych reindex --home HOME")
    except (DamagedArtifactError, LookupError) as error:
        return Check("CURRENT", State.FAILED, str(error), serving)
    found = f"index {pair.index.index_id} of model {pair.model.model_id}, {len(pair.index):,} items"
    if pair.index.without_vector:
        found += f" and {pair.index.without_vector:,} without a vector"
    if not len(pair.index):
        return Check("CURRENT", State.WARNING, found, "no item is available: import items, then reindex")
    if _latest_id(examined) not in (None, pair.model.model_id):
        return Check("CURRENT", State.WARNING, found, "a newer model waits: triptych reindex --home HOME")
    return Check("CURRENT", State.OK, found)


def model_check(examined: ExaminedHome) -> Iterator[Check]:
    """Check that the latest model, if any, loads, is finite, and ranks items differently by user."""
    try:
        from encoder.model_files import METRICS_FILE
        from encoder.runtime import Model, NotFiniteModelError

        model = examined.named(LATEST)
        Model.load(model, check=False).check_finite()
        people = json.loads((model / METRICS_FILE).read_text("utf-8")).get("people")
    except NotFiniteModelError as error:
        yield Check("model", State.FAILED, str(error), "triptych train --home HOME, then triptych reindex")
    except (ImportError, NotPublishedError):
        return  # said by the checks of the machine and of LATEST
    except (DamagedArtifactError, OSError) as error:
        if _is_sound(examined):  # else said by the checks of the models or of LATEST
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


def _is_sound(examined: ExaminedHome) -> bool:
    """Return whether every byte of the latest model is as it was written."""
    try:
        verify(examined.named(LATEST))
    except DamagedArtifactError:
        return False
    return True


def text_checks(examined: ExaminedHome) -> Iterator[Check]:
    """Check that the text models of LATEST and CURRENT load and encode."""
    try:
        from encoder.text import NotATextModelError, TextEncoder
    except ImportError as error:
        yield Check("text model", State.FAILED, str(error), "install ONNX Runtime: see above")
        return
    for text_model_id in text_models_in_use(examined):
        try:
            encoder = TextEncoder.load(examined.home.text_models / text_model_id)
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


def text_models_in_use(examined: ExaminedHome) -> list[str]:
    """Return the ids of the text models of LATEST and CURRENT whose manifests can be read."""
    found = set()
    for pointer in (LATEST, CURRENT):
        try:
            found.add(str(read_manifest(examined.named(pointer))["text_model_id"]))
        except (NotPublishedError, DamagedArtifactError):
            continue  # said by the check of that pointer
    return sorted(found)


def erased_check(home: Home, index_ids: Iterable[str]) -> Iterator[Check]:
    """Yield a warning where an index here holds vectors of users erased since; no search finds them."""
    from indexer.without_erased import erased_in

    try:
        erasures = read_ledger(home.erasures)
    except DamagedArtifactError:
        return  # said by the check of the ledger
    found = []
    for index_id in index_ids if erasures else ():
        try:
            count = len(erased_in(home, index_id, erasures))
        except (DamagedArtifactError, OSError, ValueError):
            continue  # said by the check of the indexes
        found += [f"index {index_id}: {count}"] if count else []
    if found:
        hint = "serve the home, or triptych reindex --home HOME and triptych index prune --keep 1 --home HOME"
        warning = f"vectors of erased people lie in files that nobody searches: {', '.join(found)}"
        yield Check("erased people", State.WARNING, warning, hint)


def leftover_check(home: Home) -> Check:
    """Check for directories that killed builds and prunes left behind; none of them is ever read."""
    left = [
        path
        for kind in KINDS
        for name in (".building-*", ".pruned-*")
        for path in abandoned(home.path / kind, name)
    ]
    left += abandoned(home.path, ".new-*")
    if left:
        return Check("leftovers", State.WARNING, ", ".join(map(str, left)), "of killed commands: remove them")
    begun = abandoned(home.indexes, ".spool-*")
    if begun:
        hint = "of a reindex that was killed: run it again, which goes on there, or remove them"
        return Check("leftovers", State.WARNING, ", ".join(map(str, begun)), hint)
    return Check("leftovers", State.OK, "none")


def _latest_id(examined: ExaminedHome) -> str | None:
    try:
        return examined.named(LATEST).name
    except (NotPublishedError, DamagedArtifactError):
        return None
