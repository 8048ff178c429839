"""The command line: builds the app of all commands, and turns errors into lines and exit codes.

Commands are those of `core/commands/`, and those that domains bring: `domains/<d>/commands/*.py`, and the entry points
`vladapt.commands`. The file of such a command has its name, and one function of that name, with Typer's annotations. It
is imported when its command is called; for `--help` its docstring is read.
"""

from __future__ import annotations

import ast
import importlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup

from . import __version__
from .core.commands import (
    bench,
    compare,
    curate,
    embed,
    export,
    fit,
    inspect,
    jobs,
    join,
    labels,
    pretrain,
    push,
    search,
    serve,
)
from .core.commands.options import epilog_of, in_words_of, with_flags, with_optional_values
from .core.errors import (
    CURES,
    INTERRUPTED,
    LESS_MEMORY,
    ConfigError,
    Stopped,
    VladaptError,
    fail,
    interrupted,
    no_memory,
    shortened,
    usage,
)
from .core.registry.catalogue import PACKAGE, NameOrigin, commands
from .core.runtime.process import Stops, stops_like_ctrl_c

FAILED = 1
SPINS = "1000"
"""How often a waiting thread of torch looks for work before it sleeps. By its library's own number, 300,000, waiting on
a busy machine costs several times the computation."""
COMMAND_GROUPS = (fit, compare, bench, labels, pretrain, join, embed, jobs, search, export, serve, push, inspect)
"""In the order of `vladapt --help`."""

CONTEXT = {"help_option_names": ["-h", "--help"]}
GROUP = "GROUP"
"""In the file of a domain's command: the group it belongs to, as in `GROUP = "curate"`."""


class _Named(TyperCommand):
    """A command whose arguments stand in the help by their names, in capitals, without types of Python."""

    def get_params(self, ctx):
        params = super().get_params(ctx)
        for param in params:
            if isinstance(param, TyperArgument):
                param.metavar = param.metavar or param.name.upper()
                param.display_type_rich = _no_type
            elif "--help" in param.opts:
                param.metavar = ""
        return params

    def collect_usage_pieces(self, ctx):
        arguments = [param for param in self.get_params(ctx) if isinstance(param, TyperArgument) and not param.hidden]
        many = [f"{param.metavar}{'...' * (param.nargs != 1)}" for param in arguments]
        required = [param.required or "[" in param.metavar for param in arguments]
        return [self.options_metavar, *(name if is_ else f"[{name}]" for name, is_ in zip(many, required))]


class _Groups(TyperGroup):
    def get_help_option(self, ctx):
        option = super().get_help_option(ctx)
        if option is not None:
            option.metavar = ""
        return option


def _no_type(ctx) -> str:
    return ""


def build_app(arguments: list[str]) -> typer.Typer:
    """The app. Where `arguments` begin with a command of ours, it has that one alone, since it is all that is asked
    for; where they begin with something else, ours are names with a line each, for `--help` and "no such command".

    Args:
        arguments: of the command line: a domain of another package that they name brings options of its own.
    """
    app = typer.Typer(
        name="vladapt",
        cls=_Groups,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings=CONTEXT,
    )
    app.callback()(_version)
    ours = {name: command for group in COMMAND_GROUPS for name, command in group.COMMANDS.items()}
    called = ours.keys() & set(arguments[:1])
    if not called or ours.keys() & commands().keys():
        called = ours.keys()
    for name in (name for name in ours if name in called):
        if called == ours.keys() and arguments[:1] and name not in arguments[:1]:
            app.command(name, help=_purpose(ours[name]))(_not_called)
        else:
            command = with_flags(ours[name], arguments)
            app.command(name, cls=_Named, epilog=epilog_of(name, ours[name]), context_settings=CONTEXT)(command)
    if called == ours.keys():
        add_groups_and_commands_of_domains(app, arguments)
    return app


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"vladapt {__version__}")
        raise typer.Exit


def _version(
    version: Annotated[
        bool,
        typer.Option(
            "--version", metavar="", help="Print the version and exit.", callback=_show_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Adapt a pretrained vision-language model to your images, from a handful of labels or none."""


def main(arguments: list[str] | None = None) -> None:
    """Run the app; every expected error becomes one line on stderr and its exit code."""
    arguments = with_optional_values(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # one that writes Latin-1 writes the rest as escapes
            stream.reconfigure(errors="backslashreplace")
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # warnings of torch's own about what is meant as it is
    if "OMP_WAIT_POLICY" not in os.environ:  # torch's waiting threads sleep soon, and leave the cores to who computes
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    with stops_like_ctrl_c() as stops:
        try:
            code = _exit_code(arguments, stops)
        except KeyboardInterrupt:  # while an error was being told
            code = interrupted(stops.kept)
    sys.exit(code)


def _exit_code(arguments: list[str], stops: Stops) -> int:
    """Of a command that was run, its error told."""
    try:
        code = _run(arguments)
        if code == INTERRUPTED:
            code = interrupted(stops.kept)
    except Stopped as error:
        code = interrupted(stops.kept, error.command(arguments))
    except VladaptError as error:
        if told_of_a_death(error.__cause__ or error):
            return FAILED
        if stops.explain(error.__cause__ or error):
            return interrupted(stops.kept)
        code = error.told(arguments, partial(in_words_of, arguments))
    except (typer.Abort, KeyboardInterrupt) as error:
        code = FAILED if told_of_a_death(error) else interrupted(stops.kept)
    except OSError as error:
        if stops.arrived:
            return interrupted(stops.kept)
        cure = f"; {CURES[error.errno]}" if error.errno in CURES else ""
        place = f": {error.filename}" if error.filename else ""
        code = fail(f"{error.strerror or error}{place}{cure}", 1, error, arguments)
    except Exception as error:
        if hasattr(error, "format_message"):  # a usage error of the parser, whichever click typer carries
            return fail(usage(error, arguments), 2, error, arguments)
        if no_memory(error):
            reason = shortened(" ".join(str(error).split()) or type(error).__name__, 200)
            return fail(f"there is not enough memory ({reason}); {LESS_MEMORY}", FAILED, error, arguments)
        if told_of_a_death(error):
            return FAILED
        if stops.explain(error):
            return interrupted(stops.kept)
        text = str(error).strip().splitlines()
        code = fail(f"{type(error).__name__}: {text[0] if text else ''} (--debug shows where)", 1, error, arguments)
    return code if isinstance(code, int) else 0


def told_of_a_death(error: BaseException) -> bool:
    """As in `core/runtime/liveness.py`, which opens connections: a start without an error does without it."""
    from .core.runtime import liveness

    return liveness.told_of_a_death(error)


def _run(arguments: list[str]) -> int | None:
    """Call the app or, where it has one command, this command itself: the app's own options need not be parsed."""
    app = typer.main.get_command(build_app(arguments))
    if len(app.commands) > 1:
        return app(arguments, prog_name="vladapt", standalone_mode=False)
    ((name, command),) = app.commands.items()
    return command(arguments[1:], prog_name=f"vladapt {name}", standalone_mode=False)


def add_groups_and_commands_of_domains(app: typer.Typer, arguments: Sequence[str]) -> None:
    """Add the commands of domains, and those of ours that stand in a group, to the app.

    Raises:
        ConfigError: one has the name of a command that is there, or its file defines no function with its name.
    """
    taken = {info.name or info.callback.__name__.replace("_", "-") for info in app.registered_commands}
    groups = {curate.GROUP: typer.Typer(cls=_Groups, no_args_is_help=True, help=curate.PURPOSE)}
    app.add_typer(groups[curate.GROUP], name=curate.GROUP)

    for name, command in curate.COMMANDS.items():
        called = name in arguments
        groups[curate.GROUP].command(name, cls=_Named, help=None if called else _purpose(command))(
            with_flags(command, arguments) if called else _not_called
        )
    for name, entry in commands().items():
        group, title = _group_and_title(entry)
        if name in taken and not group:
            raise ConfigError(f"command '{name}' is defined twice: by vladapt and by {entry.origin}; rename one")
        if group and group not in groups:
            groups[group] = typer.Typer(no_args_is_help=True)
            app.add_typer(groups[group], name=group)
        where = groups[group] if group else app
        called = name in arguments
        where.command(name, help=None if called else title)(
            with_flags(_function(entry), arguments) if called else _not_called
        )


def _purpose(command: Callable[..., Any]) -> str:
    """The first paragraph of its docstring, in one line, which the terminal breaks."""
    return " ".join((command.__doc__ or "").partition("\n\n")[0].split())


def _not_called() -> None:
    """Stands in `--help` for a command that is not called."""


def _function(entry: NameOrigin):
    """The function of a command.

    Raises:
        ConfigError: its file has none.
    """
    if entry.entry_point is not None:
        return entry.entry_point.load()
    module = importlib.import_module(f"{PACKAGE}.{entry.module}")
    function = getattr(module, entry.module.rpartition(".")[2], None)
    if not callable(function):
        raise ConfigError(
            f"command '{entry.name}' ({entry.origin}) has no function of that name; define one in its file"
        )
    return function


def _group_and_title(entry: NameOrigin) -> tuple[str, str]:
    """(group, first line of the docstring), told from the source; of an entry point the group is before a dot."""
    if entry.file is None:
        return "", f"From {entry.origin}."
    tree = ast.parse(entry.file.read_text(encoding="utf-8"))
    groups = [
        node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == GROUP
    ]
    text = ast.get_docstring(tree) or ""
    return (groups[0] if groups else ""), (text.splitlines() or [""])[0]


def __getattr__(name: str) -> typer.Typer:
    """`app`, of all commands, for callers that name no domain of another package."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = build_app([])
    return globals()[name]
