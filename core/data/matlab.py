"""MATLAB files, in which published sets keep annotations."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from ..errors import DataError, shortened
from ..runtime.reading import check_regular, json_values

SECONDS = 120


def read_matlab(file: Path, *variables: str) -> dict[str, list[Any]]:
    """Variables of a MATLAB file, flat: numbers, texts or objects; another process reads them (`matlab_process.py`).

    Raises:
        DataError: it is no such file, lacks one of the variables, or is too large for annotations.
    """
    check_regular(file)
    script = Path(__file__).with_name("matlab_process.py")
    command = [sys.executable, "-I", str(script), str(file.absolute()), *variables]
    try:
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, text=True, errors="replace")
        content, error = (json_values(done.stdout) if done.returncode == 0 else None), done.stderr
    except (subprocess.TimeoutExpired, ValueError):
        content, error = None, ""
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in variables):
        said = error.strip().rpartition("\n")[2]
        raise DataError(f"{file}: not a readable MATLAB file ({shortened(said) or 'damaged'}); get it again")
    return content
