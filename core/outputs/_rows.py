"""Files of rows, which `--out FILE` asks for by their ending, and `--as` by their name."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from ..contracts.output_kind import OutputKind
from ..contracts.task import Task
from ..contracts.use import Use
from ..errors import ConfigError


class RowFile(OutputKind):
    """Class attributes:
    suffix: of the file, of `FILE_KINDS`."""

    suffix: ClassVar[str]

    def check(self, use: Use, task: Task) -> None:
        if self.suffix not in task.row_files:
            kinds = " or ".join(each.lstrip(".") for each in task.row_files)
            raise ConfigError(f"--as {self.name}: {task.title} writes its rows as {kinds}; give that")

    def write(self, predicted: Any, use: Use, task: Task, folder: Path) -> list[Path]:
        """`predictions` with the suffix, as the task writes rows."""
        path, before = folder / f"predictions{self.suffix}", len(predicted.files)
        task.write_rows(predicted, path)
        written, predicted.files[before:] = predicted.files[before:], []
        return written
