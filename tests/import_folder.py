"""Folders of tables to import, and what an import refused of them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from store.imports.run import ImportOptions, ImportReport, import_folder
from store.store import Store


class Folder:
    """A home with a store, and a folder to import into it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / "in [1]*"  # the name is a path, not a pattern
        self.path.mkdir()
        self.store = Store.open(root / "views.duckdb")

    def csv(self, table: str, *lines: str) -> None:
        (self.path / f"{table}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def jsonl(self, table: str, *rows: dict[str, Any] | str) -> None:
        lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
        (self.path / f"{table}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def parquet(self, table: str, **columns: Any) -> None:
        pq.write_table(pa.table(columns), self.path / f"{table}.parquet")

    def load(self, *, strict: bool = False, file_format: str = "auto") -> ImportReport:
        return import_folder(
            self.store, self.path, rejects=self.root / "rejects", strict=strict, file_format=file_format
        )

    def load_with(self, **options: Any) -> ImportReport:
        return import_folder(
            self.store, self.path, rejects=self.root / "rejects", options=ImportOptions(**options)
        )

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        with self.store.snapshot() as cursor:
            rows: list[tuple[Any, ...]] = cursor.execute(sql).fetchall()
        return rows


def rejected(report: ImportReport, table: str) -> dict[int, str]:
    """Return the reason of each refused row by its number, as the rejects file tells it."""
    file = report.tables[table].rejects_file
    if file is None:
        return {}
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [row["row"] for row in rows] == sorted(row["row"] for row in rows)
    return {row["row"]: row["reason"] for row in rows}
