"""Options that commands share, and what they become: recipe flags, lists of names and numbers."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import ConfigError
from .option_index import TASK, Declared, declared_options, doctor_options, options_of_domain

Domain = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Domain plug-in (`vladapt list domains`); by default natural, ordinary photos."),
]
Task = Annotated[str | None, typer.Option(metavar="NAME", help="Task of the domain; by default its first one.")]
Data = Annotated[
    str | None, typer.Option(metavar="PATH", help="Data set: a folder or file; by default `sample`, the domain's own.")
]
OtherData = Annotated[
    str | None, typer.Option("--data", metavar="PATH", help="Data set: a folder or file; by default the run's own.")
]
Features = Annotated[
    str | None, typer.Option(metavar="FILE", help="Features file (.safetensors, .npz) instead of images.")
]
AdapterName = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Method (`vladapt list adapters`); by default the task's, for classes auto."),
]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="embedded (the default), open_clip:<arch>/<tag>, open_clip:<arch>@<file>, hf:<id>, or a folder or file "
        "of a trained one.",
    ),
]
OwnBackbone = Annotated[
    str | None,
    typer.Option(
        "--backbone", metavar="SPEC", help="The run's backbone on this machine, if it is not where the run says."
    ),
]
Run = Annotated[
    str, typer.Argument(help="A run folder, or hf:OWNER/NAME or hf:OWNER/NAME@REVISION on the Hugging Face hub.")
]
Device = Annotated[str | None, typer.Option(metavar="NAME", help="auto (the default), cpu, cuda, cuda:1, ...")]
Amp = Annotated[
    str | None, typer.Option(metavar="bf16|fp16", help="Mixed precision of the backbone; by default full precision.")
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Threads that decode images, by default one per core; processes, for adapters that train towers.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Images per batch through the backbone; measured by default. For adapters that train towers: images per "
        "training step, over all processes.",
    ),
]
EncodingBatch = Annotated[
    int | None,
    typer.Option("--batch-size", metavar="N", help="Images per batch through the backbone; measured by default."),
]
RecipeName = Annotated[str | None, typer.Option(metavar="NAME", help="Packaged recipe (`vladapt list recipes`).")]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Your own recipe file (.py, .json, .yaml), or an mmengine config. It is run as code: give only files that "
        "you trust.",
    ),
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any option, for instance adapter.alpha=2. Repeatable."),
]
Resource = Annotated[
    list[str] | None,
    typer.Option(
        "--resource",
        metavar="NAME=PATH",
        help="What some methods need besides images: descriptions, captions, boxes, support-folder, synonyms, ctx (a "
        "run that learned one); base=RUN (a fitted run to start from); further-backbones=SPEC,SPEC. Repeatable.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="base, new, a,b,c or a text file with one class per line; in open-vocab also a JSON of descriptions. By "
        "default all.",
    ),
]
NewClasses = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAMES",
        help="Other names to look for, for detection and segmentation: a,b,c, or a .txt or .json file.",
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Name for each image a set of classes that holds the right one in this share of cases, for instance 0.9; "
        "with several labels per image, a set that holds this share of its true labels on average.",
    ),
]
SetMethod = Annotated[
    str | None,
    typer.Option(metavar="lac|aps|raps", help="How sets of classes are made; by default lac, the smallest ones."),
]
MaxError = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Leave unsure answers open, so that at most this share of the others is wrong, for instance 0.05.",
    ),
]
OPTIONAL_VALUES = {"--novel": "rest"}
HELP = {"--help", "-h"}
OF_DOMAIN, OF_DOCTORS = "of_domain", "of_doctors"
"""Parameters of commands that get the values of declared options."""
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Where to write; by default `runs`.")]
Protocol = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Draw, choose and test as papers do: coop, full-val, k-val, fixed, standard, relaxed, realistic, "
        "cross-dataset, domain-generalization, transductive; methods then keep their published settings.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|none",
        help="Published set (dtd, eurosat, ...) whose prompts and settings are taken; by default the one recognised.",
    ),
]
Redact = Annotated[
    bool | None,
    typer.Option(
        "--redact",
        help="Leave file names, the path of the data and pictures out of what is written; samples are numbered.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]


def recipe_of(recipe, config, sets, flags: dict[str, Any]):
    """The recipe that a packaged one, a file, `--set` and the named flags make, in this order of weight."""
    from ..recipes.resolve import resolve

    return resolve(recipe=recipe, config=config, sets=sets or (), flags=flags)


def data_flags(domain, task, data, features, backbone, device, amp, batch_size, workers, classes) -> dict[str, Any]:
    """Recipe key -> what was given for it, of the flags that say which data and how it is encoded."""
    return {
        "domain": domain,
        "task": task,
        "data.path": data,
        "features": features,
        "backbone": backbone,
        "device": device,
        "amp": amp,
        "batch_size": batch_size,
        "workers": workers,
        "classes": classes,
    }


def resources_of(given: list[str] | None) -> dict[str, str]:
    """["support-folder=DIR"] -> {"support_folder": "DIR"}.

    Raises:
        ConfigError: not NAME=PATH, or a name given twice.
    """
    paths: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise ConfigError(f"--resource {text}: write NAME=PATH, for instance --resource captions=captions.txt")
        if name in paths:
            raise ConfigError(f"--resource {name.replace('_', '-')}: given twice; omit one")
        paths[name] = value.strip()
    return paths


def resource_flags(given: list[str] | None) -> dict[str, Any]:
    """The same as recipe flags; descriptions are a key of their own."""
    paths = resources_of(given)
    flags = {"descriptions": paths.pop("descriptions", None)}
    return {**flags, **{f"resources.{name}": value for name, value in paths.items()}}


def reading_of(of_domain: Mapping[str, str] | None) -> dict[str, str]:
    """{"data.window": "lung"} -> {"window": "lung"}: what a domain's reader is told when a run or an index is used.

    Raises:
        ConfigError: an option that is not of a reader.
    """
    for key in of_domain or {}:
        if not key.startswith("data."):
            raise ConfigError(f"--{key.replace('_', '-')}: only for a fit; omit it")
    return {key.removeprefix("data."): value for key, value in (of_domain or {}).items()}


def names(text: str | None) -> list[str] | None:
    """ "a, b" -> ["a", "b"]; None where nothing was given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def numbers(option: str, text: str | None, unlimited: str | None = None) -> list[int | None] | None:
    """ "1,4" -> [1, 4]; None where nothing was given.

    Args:
        unlimited: a word that stands for no limit, which becomes None.

    Raises:
        ConfigError: something else; the message names the option.
    """
    try:
        return None if text is None else [None if each == unlimited else int(each) for each in names(text)]
    except ValueError:
        more = f", or {unlimited}" if unlimited else ""
        raise ConfigError(f"{option} {text}: give whole numbers{more}, comma-separated, for instance 1,4,16") from None


def with_optional_values(arguments: Sequence[str]) -> list[str]:
    """Options that may stand alone or with a value, `--novel` and `--novel NAMES`, always with one; so may those of
    domains that are yes or no."""
    completed = []
    for place, argument in enumerate(arguments):
        completed.append(argument)
        following = arguments[place + 1] if place + 1 < len(arguments) else "-"
        if not argument.startswith("--") or not following.startswith("-"):
            continue
        if argument in OPTIONAL_VALUES:
            completed.append(OPTIONAL_VALUES[argument])
        elif argument in {each.flag for each in declared_options(_named(arguments, "--domain")) if each.switch}:
            completed.append("yes")
    return completed


def with_domain_options(command: Callable, arguments: Sequence[str]) -> Callable:
    """The command with one more option per declared one; it gets those that are given as `of_domain`, key -> text, or
    as `of_doctors` where it takes what the doctors of domains declare.

    Its help shows those of the domain that the command line names, or that its run is of.

    Args:
        command: its own parameters win over declared ones of the same name; one without such a parameter takes none
            and stays as it is.
        arguments: of the command line, which may name a domain of another package.
    """
    plain = inspect.signature(command)
    taken = set(plain.parameters)
    if not taken & {OF_DOMAIN, OF_DOCTORS}:
        return command
    hints = typing.get_type_hints(command, include_extras=True)
    into = OF_DOMAIN if OF_DOMAIN in taken else OF_DOCTORS
    domain, task = _domain_and_task(arguments)
    if into == OF_DOCTORS:
        shown = options = doctor_options()
    else:
        shown, options = options_of_domain(domain, task) if domain else [], declared_options(domain)
    declared = {each.name: each for each in [*options, *shown] if each.name not in taken}
    visible = {each.name for each in shown}

    @functools.wraps(command)
    def run(**given: Any):
        values = {each.key: given.pop(name) for name, each in declared.items()}
        return command(**given, **{into: {key: value for key, value in values.items() if value is not None}})

    kept = [p.replace(annotation=hints[name]) for name, p in plain.parameters.items() if name != into]
    added = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(each, name in visible)
        )
        for name, each in declared.items()
    ]
    signature = plain.replace(parameters=[*kept, *added])
    run.__signature__ = signature
    run.__annotations__ = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    del run.__wrapped__
    return run


def epilog_of(name: str, command: Callable) -> str | None:
    """The last line of a command's help: where the options of a domain are."""
    taken = inspect.signature(command).parameters
    if OF_DOMAIN not in taken:
        return None
    of = {"run": "the run's domain: RUN", "index": "the index's domain: INDEX"}
    whose, place = next((of[key].split(": ") for key in of if key in taken), ("a domain", "--domain NAME"))
    return f"Options of {whose}: vladapt {name} {place} --help"


def _annotation(each: Declared, shown: bool) -> Any:
    help, panel = f"{each.help[:1].upper()}{each.help[1:]}.", f"Options of {'task ' * (each.kind == TASK)}{each.owner}"
    return Annotated[str | None, typer.Option(help=help, rich_help_panel=panel, hidden=not shown)]


def _domain_and_task(arguments: Sequence[str]) -> tuple[str | None, str | None]:
    """Which the command line names; where it asks for the help of what is done with a run or an index, theirs."""
    domain, task = _named(arguments, "--domain"), _named(arguments, "--task")
    if domain is None and HELP & set(arguments):
        for place in (Path(argument) for argument in arguments):
            with suppress(OSError, ValueError, KeyError, TypeError):
                if (place / "run.json").is_file():
                    run = json.loads((place / "run.json").read_bytes())
                    return run["domain"], run["task"]
                return json.loads((place / "index.json").read_bytes())["reading"]["domain"], None
    return domain, task


def _named(arguments: Sequence[str], flag: str) -> str | None:
    """What stands behind a flag."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            return next(iter(arguments[place + 1 : place + 2]), None)
    return None
