"""triptych export: an immutable Parquet copy of the store."""

from scripts.session import HomeOption, existing, fresh_export


def export_command(home: HomeOption) -> None:
    """Write a Parquet copy of the store below exports/, through the running server where there is one.

    Example: triptych export --home demo
    """
    with fresh_export(existing(home)) as export:
        print(export.path)
