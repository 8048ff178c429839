"""The folder of an export: graphs, what they are in JSON, and a script that asks them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..contracts.use import Exported
from ..errors import DataError
from ..runtime.files import refused, write_whole
from .agreement import words_of
from .folder import FACTS

CHECKED = {
    "features": "From features",
    "pixels": "From pixels",
    "files": "From files that predict.py prepares",
    "int8": "The same in 8 bits",
    "towers": "Cosines of images and texts",
}
"""What was compared, for the user."""
STANDALONE = Path(__file__).with_name("standalone.py")


def exported(folder: Path, facts: dict[str, Any], notes: Iterable[str] = ()) -> Exported:
    """What was written, with a line for each thing that was compared."""
    lines = [f"{CHECKED[name]}: {words_of(check)}" for name, check in facts["checks"].items()]
    return Exported(folder, facts, list(notes), lines)


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into in the block, which is then `out`; nothing is left of it where the block fails.

    Raises:
        DataError: something is there already, or nothing can be written.
    """
    check_free(out)
    partial = out.with_name(f".{out.name}.partial-{secrets.token_hex(4)}")
    try:
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, out)
    except OSError as error:
        raise refused(out.parent, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_free(out: Path) -> None:
    """Raise the DataError of a folder that is there already."""
    if out.exists() or out.is_symlink():
        raise DataError(f"--out {out}: exists; give the name of a new folder")


def write_facts(folder: Path, facts: dict[str, Any], scripts: Mapping[str, Path]) -> None:
    """Write export.json, and what asks the graphs where they take pictures as it prepares them.

    Args:
        scripts: name in the folder -> the file that is copied.
    """
    write_whole(folder / FACTS, json.dumps(facts, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    for name, source in scripts.items():
        write_whole(folder / name, source.read_text(encoding="utf-8"))
