"""A JSON file with something about each class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..contracts.errors import DataError


def read_class_json(path: Path, wanted: str) -> dict[str, Any]:
    """The object in the file, not empty.

    Args:
        wanted: what to write there, for messages: "write {class: [sentences]}".

    Raises:
        DataError: the file cannot be read, is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {wanted}") from None
    except ValueError as error:
        raise DataError(f"{path}: is not JSON ({error}); {wanted}") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: holds no object of classes; {wanted}")
    return content
