"""What a person decided of images, one JSON object per line: each is on the disk before the next one is made, and the
last of an image counts. A line that a kill cut short is left out."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, shortened
from .files import claimed
from .local_page import user_name
from .reading import json_values, read_bytes

IMAGE, WITHDRAWN = "image", "withdrawn"


class DecisionFile:
    """A file of decisions, of which this process is the only one to write.

    Args:
        path: the file; one that is there is gone on with.

    Raises:
        ConfigError: another process writes it. DataError: it cannot be read, or holds something else.
    """

    def __init__(self, path: Path):
        self.path, self._lock = path, threading.Lock()
        self._claim_file = path.with_name(f".{path.name}.at-work")
        try:
            self._claim = claimed(self._claim_file)
        except BlockingIOError:
            raise ConfigError(f"{path}: another page is writing to it; close it") from None
        except OSError as error:
            raise DataError.unwritable(path.parent, error) from error
        try:
            self._of_image = self._read()
        except BaseException:
            self.close()
            raise

    def decisions(self) -> dict[str, dict[str, Any]]:
        """Image -> what was decided last, the latest decision last."""
        with self._lock:
            return dict(self._of_image)

    def add(self, image: str, decision: Mapping[str, Any]) -> None:
        """Decide of an image, in place of what was decided before; DataError where nothing can be written."""
        time = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._lock:
            self._append({IMAGE: image, **decision, "reviewer": user_name(), "time": time})

    def undo(self) -> str | None:
        """Withdraw the latest decision; returns of which image, None where there is none."""
        with self._lock:
            latest = next(reversed(self._of_image), None)
            if latest is not None:
                self._append({IMAGE: latest, WITHDRAWN: True})
            return latest

    def close(self) -> None:
        """Let others write the file."""
        self._claim_file.unlink(missing_ok=True)
        self._claim.close()

    def _append(self, row: dict[str, Any]) -> None:
        try:
            with self.path.open("ab") as file:
                file.write((json.dumps(row) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError.unwritable(self.path.parent, error) from error
        self._take(self._of_image, row)

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self.path.exists():
            return {}
        whole, _, cut = read_bytes(self.path).rpartition(b"\n")
        rows: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.split(b"\n") if whole else (), start=1):
            try:
                row = json_values(line.decode())
            except ValueError:
                row = None
            if not isinstance(row, dict) or not isinstance(row.get(IMAGE), str):
                raise DataError(f"{self.path} line {number}: not a decision ({shortened(line)}); correct or remove it")
            self._take(rows, row)
        if cut:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1 if whole else 0)
        return rows

    @staticmethod
    def _take(rows: dict[str, dict[str, Any]], row: dict[str, Any]) -> None:
        rows.pop(row[IMAGE], None)
        if not row.get(WITHDRAWN):
            rows[row[IMAGE]] = row
