"""What `triptych doctor` checks of a home in object storage, and of the bucket that an owner shares.

Each artifact is compared with what was noted beside its files, which reads none of them. The latest model and
the index that serves are fetched, checked byte by byte, and loaded.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from scripts.artifacts import working_home
from scripts.doctor.check import Check, State
from scripts.doctor.files import KIND_OF, ExaminedHome, checks_of_each, erased_check, serving_checks
from scripts.doctor.machine import machine_checks
from store.artifact import DamagedArtifactError
from store.home import Home
from store.objects import (
    CURRENT,
    KINDS,
    HomeBucket,
    HomeDirectory,
    NoObjectStorageError,
    ObjectStorageError,
    cache_folder,
)

_NOT_REACHED = "docs/object-storage.md says what reaches a bucket, and by which rights"


def bucket_checks(url: str, cache: Path | None) -> Iterator[Check]:
    """Yield every check of a home in object storage, the machine first.

    Args:
        url: of the home.
        cache: the folder of local copies; None for that of this user.
    """
    yield from machine_checks(Home(cache or cache_folder()))
    try:
        bucket = HomeBucket(url)
        ids = {kind: bucket.ids(kind) for kind in KINDS}
    except (NoObjectStorageError, ObjectStorageError, ValueError) as error:
        yield Check("bucket", State.FAILED, str(error), _NOT_REACHED)
        return
    yield Check("bucket", State.OK, bucket.name)
    for kind, found in ids.items():
        examine = partial(_examine, bucket, kind)
        yield from checks_of_each(kind, found, f"{url}/{kind}", examine, "checksums as they were noted there")
    check = ledger_check(bucket)
    yield check
    if check.state is State.OK:  # without it no export there may be read
        with working_home(url, cache) as work:
            yield from serving_checks(ExaminedHome(work.home, bucket.ids, work.named))
            serving = work.before[CURRENT].artifact_id
            yield from erased_check(work.home, [serving] if serving else [])
    yield leftover_check(bucket)


def _examine(bucket: HomeBucket, kind: str, artifact_id: str) -> None:
    """Compare an artifact with what was noted there.  Raises: DamagedArtifactError."""
    found = bucket.manifest(kind, artifact_id).get("kind")
    if found != KIND_OF[kind]:
        raise DamagedArtifactError(
            f"{bucket.name}/{kind}/{artifact_id}", f"is a {found!r}, not a {KIND_OF[kind]}"
        )
    bucket.check(kind, artifact_id)


def ledger_check(bucket: HomeBucket) -> Check:
    """Check that the ledger of erasures in the bucket can be read: exports there need it."""
    try:
        count = len(bucket.ledger())
    except DamagedArtifactError as error:
        hint = "remove it, then triptych export on the owner, which writes it anew"
        return Check("erasures", State.FAILED, str(error), hint)
    return Check("erasures", State.OK, f"{count} in the ledger")


def leftover_check(bucket: HomeBucket) -> Check:
    """Check for what uploads left behind that were cut off a day ago or more; none of it is ever read."""
    left = sorted(bucket.left_behind())
    if left:
        hint = f"triptych artifacts clean --home {bucket.name}"
        return Check("leftovers", State.WARNING, ", ".join(f"{bucket.name}/{one}" for one in left), hint)
    return Check("leftovers", State.OK, "none")


def shared_bucket_check(home: Home, url: str) -> Check:
    """Check that the bucket of an owner answers, and names the index that serves here."""
    try:
        named = HomeBucket(url).pointer(CURRENT).artifact_id
    except (NoObjectStorageError, ObjectStorageError) as error:
        hint = f"serving goes on, nothing is published until it answers: {_NOT_REACHED}"
        return Check("bucket", State.WARNING, str(error), hint)
    here = HomeDirectory(home).pointer(CURRENT).artifact_id
    if named != here:
        found = f"{url} names index {named or 'none'}, {home.current_index} names {here or 'none'}"
        return Check("bucket", State.WARNING, found, "a server takes what the bucket names: triptych serve")
    return Check("bucket", State.OK, f"{url} names the index that serves here")
