"""JSON files read whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...contracts.errors import DataError
from ..tables import parse_json


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        DataError: it cannot be read, or is no UTF-8 or no JSON.
    """
    try:
        return parse_json(path, path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
