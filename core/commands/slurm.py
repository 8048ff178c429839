"""A command on shards as a Slurm array, printed: the jobs that take a part of the shards each, and the one behind them
that makes what is missing and tells what cannot be read."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .options import Flags, ParameterSource

NEEDS = "# add what a job needs to both, such as --gpus=1 --cpus-per-task=12 --time=4:00:00"


@dataclass(frozen=True)
class SlurmArray(ParameterSource):
    """The flag `--slurm N`; what is made of it are the lines to print, None where it is not given."""

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        def made(given: dict[str, Any]) -> list[str] | None:
            return _lines_of(arguments, given["slurm"]) if given else None

        help = "Print the lines that submit this command as an array of N Slurm jobs, and run nothing."
        return Flags({"slurm": Annotated[int | None, typer.Option("--slurm", min=1, metavar="N", help=help)]}, made)


def _lines_of(arguments: Sequence[str], jobs: int) -> list[str]:
    """The lines of a shell.

    Args:
        arguments: of the command line, `--slurm` among them.
        jobs: of the array.

    Raises:
        ConfigError: they name a part of the shards themselves.
    """
    words, rest = ["srun", "vladapt"], iter(arguments)
    for word in rest:
        flag, _, value = word.partition("=")
        if flag == "--shard":
            raise ConfigError("--shard: --slurm gives each job its own; omit it")
        if flag != "--slurm":
            words.append(word)
        elif not value:
            next(rest)
    whole = shlex.join(words)
    part = shlex.quote(f"{whole} --shard $SLURM_ARRAY_TASK_ID/{jobs}")
    return [
        NEEDS,
        f"job=$(sbatch --parsable --array=0-{jobs - 1} --signal=TERM@60 --requeue --wrap {part})",
        f"sbatch --dependency=afterany:$job --wrap {shlex.quote(whole)}",
    ]
