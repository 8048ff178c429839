"""How a command ends that did not end well: one line on stderr, and the exit code. Imports nothing heavy."""

from __future__ import annotations

import os
import sys
from typing import Any

INTERRUPTED = 130
"""What the parser returns after Ctrl-C, which it catches itself."""

NUMBERS = {"integer": "a whole number", "float": "a number", "number": "a number"}
"""What the parser calls a number -> how we do."""


def usage(error: Any, arguments: list[str]) -> str:
    """What the parser says, and where to read more; of a number that is none, what was given."""
    said, options = error.format_message(), getattr(getattr(error, "param", None), "opts", ())
    kind = next((text for word, text in NUMBERS.items() if word in said), None) if "Invalid value" in said else None
    for i, argument in enumerate(arguments if kind else ()):
        option, _, value = argument.partition("=")
        if option in options:
            return f"{option} {value or ' '.join(arguments[i + 1 : i + 2])}: give {kind}"
    command = error.ctx.command_path if getattr(error, "ctx", None) else "vladapt"
    return f"{said.rstrip('.')}; see `{command} --help`"


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
