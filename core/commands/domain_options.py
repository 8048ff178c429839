"""Options that domains declare, as flags of the commands that read data, in `--help` under the domain's name."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from ..registry.declared import Declared, declared_options


def with_domain_options(command: Callable, arguments: Sequence[str]) -> Callable:
    """The command with one more option per declared one; it gets those that are given as `of_domain`, key -> text.

    Args:
        command: has a parameter `of_domain`, and its own parameters win over declared ones of the same name.
        arguments: of the command line, which may name a domain of another package.
    """
    own = inspect.signature(command)
    hints = typing.get_type_hints(command, include_extras=True)
    taken = set(own.parameters)
    declared = {each.name: each for each in declared_options(_named_domain(arguments)) if each.name not in taken}

    @functools.wraps(command)
    def run(**given: Any):
        said = {each.key: given.pop(name) for name, each in declared.items()}
        return command(**given, of_domain={key: value for key, value in said.items() if value is not None})

    kept = [p.replace(annotation=hints[name]) for name, p in own.parameters.items() if name != "of_domain"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(each))
        for name, each in declared.items()
    ]
    signature = own.replace(parameters=[*kept, *added])
    run.__signature__ = signature
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    del run.__wrapped__
    return run


def _annotation(each: Declared) -> Any:
    texts = list(dict.fromkeys(each.help.values()))
    help = texts[0] if len(texts) == 1 else "; ".join(f"{name}: {text}" for name, text in each.help.items())
    panel = f"Options of {', '.join(each.help)}"
    return Annotated[str | None, typer.Option(help=help[0].upper() + help[1:] + ".", rich_help_panel=panel)]


def _named_domain(arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments):
        if argument.startswith("--domain="):
            return argument.partition("=")[2]
        if argument == "--domain":
            return next(iter(arguments[place + 1 : place + 2]), None)
    return None
