"""What changes while the server runs.

`writer.py` has the one thread that writes requests; `ingest.py` runs erasures, exports and imports. After
each commit, `commits.py` passes the change on to three background workers: `items.py` and `users.py` keep the
two indexes in step with the store (`index_follower.py` is what they share), and `texts.py` encodes new texts.
`index_writer.py` changes an index and tells the query processes, which `query_processes.py` knows.
`publisher.py` makes another index the one that serves, while these go on; `forgetting.py` has it do so where
files hold vectors of erased people. `artifacts.py` knows where exports and indexes belong: in the directory
of the home, or in a bucket, which it follows; `index_list.py` lists the indexes of both. `state_copy.py`
copies commits to a cluster, for read replicas.
`candidates.py` puts an index that is to serve into Milvus, where that is what candidates come from.
"""

from server.live.artifacts import ArtifactFollower, BucketArtifacts, HomeArtifacts, artifacts_of
from server.live.candidates import candidates_of
from server.live.commits import CommitListener
from server.live.forgetting import Forgetting
from server.live.index_list import IndexList, ListedIndex, Location
from server.live.index_writer import IndexWriter, RecordingIndexWriter, put_live
from server.live.ingest import IMPORT_ERRORS, Erased, Ingest
from server.live.publisher import Published, Publisher, freeze_what_stays
from server.live.query_processes import NotPreparedError, QueryProcesses
from server.live.state_copy import StateCopy
from server.live.writer import GroupCommit, StoppingError

__all__ = [
    "IMPORT_ERRORS",
    "ArtifactFollower",
    "BucketArtifacts",
    "CommitListener",
    "Erased",
    "Forgetting",
    "GroupCommit",
    "HomeArtifacts",
    "IndexList",
    "IndexWriter",
    "Ingest",
    "ListedIndex",
    "Location",
    "NotPreparedError",
    "Published",
    "Publisher",
    "QueryProcesses",
    "RecordingIndexWriter",
    "StateCopy",
    "StoppingError",
    "artifacts_of",
    "candidates_of",
    "freeze_what_stays",
    "put_live",
]
