"""What can go wrong, and how a command says so: one line, and an exit code. Imports nothing heavy."""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Iterable
from typing import Any

INTERRUPTED = 130
"""What the parser returns after Ctrl-C, which it catches itself."""

NUMBERS = {"integer": "a whole number", "float": "a number", "number": "a number"}
"""What the parser calls a number -> how we do."""


class VladaptError(Exception):
    """Base of all expected errors. `exit_code` is what the command line ends with."""

    exit_code = 1


class DataError(VladaptError):
    """The user's data, a run folder or a checkpoint cannot be used as it is."""


class CacheError(DataError):
    """The cache cannot be written: no fault of the image or file whose features were to be kept there."""


class ConfigError(VladaptError):
    """An option, a recipe or a name is wrong: a usage error."""

    exit_code = 2


class UnknownNameError(ConfigError):
    """A name (adapter, domain, backbone, loss, option) that nothing has; the message says the nearest right ones."""


class CapabilityError(VladaptError):
    """A backbone, a feature file or an adapter was asked for something it does not have."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A half sentence with the nearest right names, or all of them."""
    known = sorted(set(known))
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there are: {', '.join(known)}" if known else "there are none"


def usage(error: Any, arguments: list[str]) -> str:
    """What the parser says, and where to read more; of a number that is none, what was given."""
    text, options = error.format_message(), getattr(getattr(error, "param", None), "opts", ())
    kind = next((words for word, words in NUMBERS.items() if word in text), None) if "Invalid value" in text else None
    for i, argument in enumerate(arguments if kind else ()):
        option, _, value = argument.partition("=")
        if option in options:
            return f"{option} {value or ' '.join(arguments[i + 1 : i + 2])}: give {kind}"
    command = error.ctx.command_path if getattr(error, "ctx", None) else "vladapt"
    return f"{text.rstrip('.')}; see `{command} --help`"


def fail(message: str, code: int, error: BaseException, arguments: list[str]) -> int:
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    if message and is_main_rank():
        print(f"vladapt: {' '.join(message.split())}", file=sys.stderr)
    return code


def interrupted() -> int:
    if is_main_rank():
        print("vladapt: stopped; what was computed is kept, the same command goes on from it", file=sys.stderr)
    return 1


def is_main_rank() -> bool:
    """Whether this process is the one that prints, by torchrun's variables."""
    return int(os.environ.get("WORLD_SIZE", "1")) < 2 or os.environ.get("RANK", "0") == "0"
