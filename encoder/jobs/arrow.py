"""Arrow as processes of ours use it."""

import sys
from importlib.abc import MetaPathFinder


class _WithoutPandas(MetaPathFinder):
    """Finds no pandas."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is hidden", name=fullname)


def leave_pandas_out() -> None:
    """Have Arrow do without pandas in this process, where pandas is installed and not loaded yet.

    The first array that Arrow makes of a list has it load pandas, to learn whether the list is a series of
    pandas: half a second of a processor and tens of megabytes in each process. Nothing of ours is one. Arrow
    looks only once, so that it is enough to hide pandas from it now; whoever imports pandas later finds it.
    To be called before other threads run.
    """
    if "pandas" in sys.modules:
        return
    import pyarrow as pa  # noqa: PLC0415  # whoever only wants workers need not load it

    hidden = _WithoutPandas()
    sys.meta_path.insert(0, hidden)
    try:
        pa.array([])
    finally:
        sys.meta_path.remove(hidden)
