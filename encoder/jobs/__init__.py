"""Batch work in parts, with the same results in this process, in several processes and on several machines.

`jobs` says what a way to do such work is: a function, which workers import by its name, is called with each
part; what is large lies in files that every worker sees, and a part is a path and some numbers. `processes`
works in processes of this machine and `cluster` on a Ray cluster; both start again what a lost worker had.
`opening` chooses between them by the options `--jobs` and `--ray`. `arrow` keeps out of a process what it
needs not load.
"""

from encoder.jobs.arrow import leave_pandas_out
from encoder.jobs.jobs import (
    IN_PROCESS,
    Crew,
    Jobs,
    NotByNameError,
    PartFailedError,
    PartLostError,
    Room,
    WorkerLostError,
)
from encoder.jobs.opening import NotSharedError, check_shared, open_jobs, shared_folder
from encoder.jobs.processors import usable_processors

__all__ = [
    "IN_PROCESS",
    "Crew",
    "Jobs",
    "NotByNameError",
    "NotSharedError",
    "PartFailedError",
    "PartLostError",
    "Room",
    "WorkerLostError",
    "check_shared",
    "leave_pandas_out",
    "open_jobs",
    "shared_folder",
    "usable_processors",
]
