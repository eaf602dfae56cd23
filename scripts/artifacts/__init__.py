"""Homes in object storage as the commands use them, and `triptych artifacts`.

`working_home` opens the home that --home names: a directory, whose artifacts may belong in a bucket, or a
bucket, whose artifacts are fetched to this machine and uploaded from it. `command.py` copies artifacts from
one place to another, lists them and removes what was left behind.
"""

from scripts.artifacts.homes import CacheOption, PlaceOption, WorkingHome, directory_home, working_home

__all__ = ["CacheOption", "PlaceOption", "WorkingHome", "directory_home", "working_home"]
