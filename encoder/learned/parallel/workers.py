"""The workers of a training, and the data set that they find in a folder."""

from dataclasses import dataclass, field
from pathlib import Path

from encoder.dataset import Dataset
from encoder.dataset_files import save_dataset
from encoder.jobs import Jobs


@dataclass
class TrainingWorkers:
    """Workers that train learned blocks together with this process.

    Attributes:
        jobs: begins them.
        folder: that they see, for the data.
    """

    jobs: Jobs
    folder: Path
    _written: list[tuple[Dataset, Path]] = field(default_factory=list)

    def folder_of(self, data: Dataset) -> Path:
        """Return the folder that has a data set, and write it there the first time."""
        for known, folder in self._written:
            if known is data:
                return folder
        folder = self.folder / f"data-{len(self._written)}"
        save_dataset(data, folder)
        self._written.append((data, folder))
        return folder
