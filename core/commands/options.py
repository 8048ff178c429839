"""Options that commands share, and what they become: recipe flags, lists of names and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..contracts.errors import ConfigError

Domain = Annotated[str | None, typer.Option(help="Domain plug-in (`vladapt list domains`).")]
Task = Annotated[str | None, typer.Option(help="Task of the domain; its first one by default.")]
Data = Annotated[str | None, typer.Option(help="Data set: a folder or file, or `sample`.")]
Features = Annotated[str | None, typer.Option(help="Features file (.safetensors, .npz) instead of images.")]
AdapterName = Annotated[str | None, typer.Option(help="Method (`vladapt list adapters`).")]
Backbone = Annotated[
    str | None, typer.Option(help="embedded, open_clip:<arch>/<tag>, open_clip:<arch>@<file>, hf:<id>")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Amp = Annotated[str | None, typer.Option(help="Mixed precision of the backbone: bf16 or fp16.")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that decode images; processes, for adapters that train towers.")
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        help="Images at once through the backbone; measured by default. For adapters that train towers: images of a "
        "training step, over all processes."
    ),
]
RecipeName = Annotated[str | None, typer.Option(help="Packaged recipe (`vladapt list recipes`).")]
ConfigFile = Annotated[str | None, typer.Option(help="A recipe file of your own (.py, .json, .yaml).")]
Sets = Annotated[list[str] | None, typer.Option("--set", help="key=value, for instance adapter.alpha=2. Repeatable.")]
Resource = Annotated[
    list[str] | None,
    typer.Option(
        "--resource",
        help="NAME=PATH of what some methods need besides images: descriptions, captions, boxes, support-folder, "
        "synonyms, ctx (a run that learned one); further-backbones=SPEC,SPEC. Repeatable.",
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="base, new, a,b,c or a text file with one class a line; in open-vocab also a JSON of descriptions."
    ),
]
NewClasses = Annotated[
    str | None,
    typer.Option(
        "--classes", help="Other names to look for, for detection and segmentation: a,b,c, or a .txt or .json file."
    ),
]
OPTIONAL_VALUES = {"--novel": "rest"}
Out = Annotated[str | None, typer.Option(help="Where to write.")]
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
    found: dict[str, str] = {}
    for text in given or ():
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or not name or not value.strip():
            raise ConfigError(f"--resource {text}: write NAME=PATH, for instance --resource captions=captions.txt")
        if name in found:
            raise ConfigError(f"--resource {name.replace('_', '-')}: given twice; omit one")
        found[name] = value.strip()
    return found


def resource_flags(given: list[str] | None) -> dict[str, Any]:
    """The same as recipe flags; descriptions are a key of their own."""
    found = resources_of(given)
    flags = {"descriptions": found.pop("descriptions", None)}
    return {**flags, **{f"resources.{name}": value for name, value in found.items()}}


def names(text: str | None) -> list[str] | None:
    """ "a, b" -> ["a", "b"]; None where nothing was given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def numbers(option: str, text: str | None) -> list[int] | None:
    """ "1,4" -> [1, 4]; None where nothing was given. Raises ConfigError, naming the option."""
    try:
        return None if text is None else [int(number) for number in names(text)]
    except ValueError:
        raise ConfigError(f"{option} {text}: give whole numbers, comma-separated, for instance 1,4,16") from None


def with_optional_values(arguments: Sequence[str]) -> list[str]:
    """Options that may stand alone or with a value, `--novel` and `--novel NAMES`, always with one."""
    found = []
    for place, argument in enumerate(arguments):
        found.append(argument)
        following = arguments[place + 1] if place + 1 < len(arguments) else "-"
        if argument in OPTIONAL_VALUES and following.startswith("-"):
            found.append(OPTIONAL_VALUES[argument])
    return found
