"""The folder of a pre-training: checkpoints while it runs, the model and its report when it is done."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...backbones.fine_tuned import FILE
from ...contracts.errors import ConfigError, DataError
from ...runtime.files import write_whole

STAGES = "stage-*"


@dataclass(frozen=True)
class PretrainFolder:
    """`model.safetensors`, `run.json`, `metrics.json`, `history.json`, `log.txt`, `report.html`."""

    path: Path

    @property
    def model(self) -> Path:
        return self.path / FILE

    def open(self, resume: bool) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """What is there: (info, metrics) of a finished training that is resumed, else None.

        Raises:
            ConfigError: something is there and it is not to be resumed.
            DataError: it is no folder, or its files are damaged.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"--out {self.path}: a file, not a folder; give the folder that is to hold the model")
        finished = self.model.is_file() and (self.path / "run.json").is_file()
        if not resume:
            if finished or self.model.is_file():
                raise ConfigError(f"--out {self.path}: holds a model already; give another folder")
            if self._stages():
                raise ConfigError(
                    f"--out {self.path}: holds a training that was stopped; add --resume to go on with it, "
                    "or give another folder"
                )
            return None
        return (self._read("run.json"), self._read("metrics.json")) if finished else None

    def finish(self, info: dict[str, Any], metrics: dict[str, Any], history: list[dict], log: str) -> None:
        """Write what belongs beside the model, run.json last; checkpoints are removed."""
        for name, value in (("metrics.json", metrics), ("history.json", history), ("run.json", info)):
            write_whole(self.path / name, json.dumps(value, indent=1, default=str).encode())
        write_whole(self.path / "log.txt", f"{log}\n".encode())
        for stage in self._stages():
            shutil.rmtree(stage)

    def _stages(self) -> list[Path]:
        return sorted(self.path.glob(STAGES))

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return json.loads((self.path / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path / name}: damaged ({error}); train again in another --out") from error
