import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_arrow_loads_no_pandas_once_told_and_whoever_wants_it_has_it() -> None:
    pytest.importorskip("pandas")  # comes with pymilvus
    code = """if True:
        import sys
        import pyarrow as pa
        from encoder.jobs import leave_pandas_out
        leave_pandas_out()
        leave_pandas_out()
        table = pa.table({"a": pa.array(["x", None]), "b": [1, 2]})
        print("pandas" in sys.modules, table.to_pylist())
        import pandas
        print(table.to_pandas()["b"].tolist(), pa.array(pandas.Series([1.5])).to_pylist())
    """
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=200, check=True
    )
    assert ended.stdout.splitlines() == ["False [{'a': 'x', 'b': 1}, {'a': None, 'b': 2}]", "[1, 2] [1.5]"]
