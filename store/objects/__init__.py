"""Object storage: files below a URL, and the artifacts of a home there.

`storage.py` has the files (S3 and what else fsspec reaches); `places.py` where the artifacts of a home may
lie, a directory or a bucket, behind one interface; `bucket.py` those in a bucket, whose pointers move by
conditional puts; `local_copy.py` the bounded, checksummed copy that readers keep on their disk.
"""

from store.objects.bucket import HomeBucket, UploadSweptError, place_of
from store.objects.local_copy import LocalCopy, ServingIndex, cache_folder
from store.objects.places import (
    CURRENT,
    KINDS,
    LATEST,
    ArtifactPlace,
    HomeDirectory,
    Pointer,
    PointerMovedError,
    PointerVersion,
    add_needed,
    copy_artifact,
    needed,
)
from store.objects.storage import (
    ConditionFailedError,
    LiveStoreElsewhereError,
    NoConditionsError,
    NoObjectStorageError,
    ObjectStorage,
    ObjectStorageError,
    StoredObject,
    in_object_storage,
    url_of,
)

__all__ = [
    "CURRENT",
    "KINDS",
    "LATEST",
    "ArtifactPlace",
    "ConditionFailedError",
    "HomeBucket",
    "HomeDirectory",
    "LiveStoreElsewhereError",
    "LocalCopy",
    "NoConditionsError",
    "NoObjectStorageError",
    "ObjectStorage",
    "ObjectStorageError",
    "Pointer",
    "PointerMovedError",
    "PointerVersion",
    "ServingIndex",
    "StoredObject",
    "UploadSweptError",
    "add_needed",
    "cache_folder",
    "copy_artifact",
    "in_object_storage",
    "needed",
    "place_of",
    "url_of",
]
