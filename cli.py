"""The command line: builds the app of the commands in `core/commands/` and turns errors into lines and exit codes."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from . import __version__
from .core.commands import embed, fit, inspect, plugins, pretrain, retrieval
from .core.commands.options import with_domain_options, with_optional_values
from .core.errors import VladaptError
from .core.runtime.exits import INTERRUPTED, fail, interrupted, usage

COMMAND_GROUPS = (fit, pretrain, embed, retrieval, inspect)
"""In the order of `vladapt --help`."""


def build_app(arguments: list[str]) -> typer.Typer:
    """The app.

    Args:
        arguments: of the command line: a domain of another package that they name brings options of its own.
    """
    app = typer.Typer(
        name="vladapt",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_version)
    for group in COMMAND_GROUPS:
        for name, command in group.COMMANDS.items():
            app.command(name)(with_domain_options(command, arguments))
    plugins.register(app, arguments)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vladapt {__version__}")
        raise typer.Exit


def _version(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and end.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Adapt a pretrained vision-language model to your images, from a handful of labels or none."""


app = build_app([])
"""For callers that name no domain of another package."""


def main(arguments: list[str] | None = None) -> None:
    """Run the app; every expected error becomes one line on stderr and its exit code."""
    arguments = with_optional_values(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of torch's own about what is meant as it is
    try:
        code = build_app(arguments)(arguments, prog_name="vladapt", standalone_mode=False)
        if code == INTERRUPTED:
            code = interrupted()
    except VladaptError as error:
        code = fail(str(error), error.exit_code, error, arguments)
    except (typer.Abort, KeyboardInterrupt):
        code = interrupted()
    except OSError as error:
        code = fail(f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}", 1, error, arguments)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the parser, whichever click typer carries
            sys.exit(fail(usage(error, arguments), 2, error, arguments))
        text = str(error).strip().splitlines()
        code = fail(f"{type(error).__name__}: {text[0] if text else ''} (--debug shows where)", 1, error, arguments)
    sys.exit(code if isinstance(code, int) else 0)
