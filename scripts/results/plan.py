"""Which data sets there are, and the commands that make the figures of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

# In the order of the tables; other folders follow by name.
_ORDER = ("lastfm", "rfc", "ml-latest-small", "ml-by-time", "gowalla")
_BY_TIME = ("--by", "time", "--valid", "0.1", "--test", "0.1", "--replace")
# Another split of the same data: name → folder and options of `triptych split`.
_RESPLIT = {"ml-by-time": ("ml-latest-small", _BY_TIME)}


class NoDataSetError(LookupError):
    """A folder has no data set, or not one that is asked for."""

    def __init__(self, data: Path, name: str | None, there: Sequence[str]) -> None:
        what = f"no data set {name!r}" if name else "no data set: no folder in it holds behaviors"
        super().__init__(f"{data} has {what}" + (f"; there are {', '.join(there)}" if there else ""))
        self.name = name


@dataclass(frozen=True)
class ResultStep:
    """One command of `triptych`.

    Attributes:
        name: of its marker and its log.
        words: of the command line, after `triptych`.
        clears: a directory that is removed before; what a killed step left there would not do.
    """

    name: str
    words: tuple[str, ...]
    clears: Path | None = None

    @property
    def command(self) -> str:
        """The command line as a user types it."""
        return " ".join(("triptych", *self.words))


@dataclass(frozen=True)
class DataSet:
    """A data set whose figures are made.

    Attributes:
        name: of its home and of its columns in the tables.
        folder: what is imported.
        split: options of `triptych split`; none where the data's own split is taken.
    """

    name: str
    folder: Path
    split: tuple[str, ...] = ()

    def home(self, results: Path) -> Path:
        """Return its home below the working folder."""
        return results / "homes" / self.name

    def report(self, results: Path) -> Path:
        """Return the file that `triptych evaluate` writes below the working folder."""
        return results / f"{self.name}.json"

    def steps(self, results: Path, train: Sequence[str]) -> list[ResultStep]:
        """Return the commands that make its figures, in order; `train` are further words of the training."""
        home = ("--home", str(self.home(results)))
        report = ("--json", str(self.report(results)))
        steps = [ResultStep("import", ("import", str(self.folder), *home), clears=self.home(results))]
        if self.split:
            steps.append(ResultStep("split", ("split", *home, *self.split)))
        return [
            *steps,
            ResultStep("train", ("train", *home, *train)),
            ResultStep("reindex", ("reindex", *home)),
            ResultStep(
                "evaluate", ("evaluate", *home, "--split", "test", *report, "--baselines", "--robustness")
            ),
        ]


def data_sets(data: Path, wanted: Sequence[str] = ()) -> list[DataSet]:
    """Return the data sets of a folder, those named in `wanted` or all.

    Raises:
        NoDataSetError: there is none, or not one that is wanted.
    """
    found = {one.name: one for one in _found(data)}
    there = sorted(found, key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
    if not there:
        raise NoDataSetError(data, None, there)
    for name in wanted:
        if name not in found:
            raise NoDataSetError(data, name, there)
    return [found[name] for name in there if name in wanted or not wanted]


def _found(data: Path) -> Iterator[DataSet]:
    for folder in data.iterdir() if data.is_dir() else ():
        if any(folder.glob("behaviors.*")):
            yield DataSet(folder.name, folder)
            for name, (source, options) in _RESPLIT.items():
                if source == folder.name:
                    yield DataSet(name, folder, options)
