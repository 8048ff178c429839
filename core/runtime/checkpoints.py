"""The folder of an unfinished training's checkpoints: kept beside the runs, found again by what is trained."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..contracts.errors import ConfigError
from .distributed import is_main, run_on_all
from .progress import Reporter

PLACE = ".resume"


@contextmanager
def kept_checkpoints(
    runs: Path, key: str, resume: bool, reporter: Reporter, newest: Callable[[Path], str]
) -> Iterator[Path]:
    """`<runs>/.resume/<key>`, removed where the block ends well.

    Args:
        runs: the folder that holds runs.
        key: says what is trained on what.
        resume: go on from what is there.
        newest: folder -> what its newest checkpoint is called ("step 12"), "" where it holds none.

    Raises:
        ConfigError: an unfinished training is there and it is not to be resumed.
    """
    folder = runs / PLACE / key
    run_on_all(lambda: _refuse_unfinished(folder, resume, newest))
    try:
        yield folder
    except BaseException:
        if is_main() and (done := newest(folder)):
            done = done[0].upper() + done[1:]
            reporter.say(f"{done} is kept in {folder}; the same command with --resume goes on from it")
        raise
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # another training's checkpoints lie there
            folder.parent.rmdir()


def _refuse_unfinished(folder: Path, resume: bool, newest: Callable[[Path], str]) -> None:
    if not resume and (done := newest(folder)):
        raise ConfigError(
            f"{folder}: this fit was stopped after {done}; add --resume to go on with it, or remove that folder "
            "to start anew"
        )
