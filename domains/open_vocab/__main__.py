"""`python -m vladapt.domains.open_vocab SCRIPT ARGS`: a script of mmdet's or mmsegmentation's, unchanged, on our stack.

Importing the package has made mmdet importable; what is left is to run the script as Python itself would.
"""

from __future__ import annotations

import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from ...core.errors import ConfigError, VladaptError

USAGE = "usage: python -m vladapt.domains.open_vocab SCRIPT ARGS..., or -m MODULE ARGS..."


def main(arguments: list[str]) -> int:
    """Run what is named, with `sys.argv` and `sys.path` as it expects them.

    Returns:
        0, or the code of an error of ours, told in one line: 2 where nothing can be run. Whatever else the script
        raises, or exits with, passes through.
    """
    try:
        run(arguments)
    except VladaptError as error:
        return error.told(arguments)
    return 0


def run(arguments: list[str]) -> None:
    """Run the script or module that the first of the arguments name.

    Raises:
        ConfigError: there is none.
    """
    if arguments[:1] == ["-m"] and len(arguments) > 1:
        _run_module(arguments[1:])
    elif arguments and not arguments[0].startswith("-"):
        script = Path(arguments[0])
        if not script.is_file():
            raise ConfigError(f"{script}: {'is a folder' if script.is_dir() else 'no such file'}; {USAGE}")
        _become(arguments, script.resolve().parent)
        runpy.run_path(str(script), run_name="__main__")
    else:
        raise ConfigError(USAGE)


def _run_module(arguments: list[str]) -> None:
    _become(arguments, Path.cwd())
    if not _is_there(arguments[0]):
        raise ConfigError(f"-m {arguments[0]}: no such module; {USAGE}")
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


def _become(arguments: list[str], folder: Path) -> None:
    sys.argv = arguments
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = str(folder)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ModuleNotFoundError, ValueError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
