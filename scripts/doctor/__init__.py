"""triptych doctor: checks of an installation and a home, which say what to do and repair nothing.

`command` runs them and prints a table; `check` is one line of it. `machine` checks Python, packages, FAISS
and the disk; `configuration` triptych.toml and certificates; `store` the live store or the server that owns
it; `files` every byte of every artifact; `bucket` a home in object storage.
"""

from scripts.doctor.command import doctor_command

__all__ = [
    "doctor_command",
]
