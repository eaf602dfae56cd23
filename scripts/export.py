"""triptych export: an immutable Parquet copy of the store."""

from scripts.home_access import existing_home, fresh_export
from scripts.terminal import HomeOption


def export_command(home: HomeOption) -> None:
    """Write a Parquet copy of the store.

    It lands below exports/; where a server runs, the server writes it.

    Example: triptych export --home demo
    """
    with fresh_export(existing_home(home)) as export:
        print(export.path)
