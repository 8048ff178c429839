"""Options that commands share, and what they become.

A parameter of a command annotated with a `ParameterSource` stands for many flags: those of a recipe, of a run that is
used again, of what a comparison varies. They are made from the fields of the contracts, which hold type, name and help.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backbones.specs import with_own_backbones, with_own_code, with_own_teachers
from ..contracts.options import Option, annotation, options_of
from ..contracts.recipe import (
    ALL,
    DATA,
    GROUPS,
    JUDGING,
    KEYS,
    METHOD,
    OUTPUT,
    TRAINED,
    Recipe,
    check_writable,
    holds_features,
)
from ..contracts.sources import SourceOptions, parse_sources
from ..contracts.task import COMPARED
from ..contracts.use import USE
from ..data import links
from ..errors import ConfigError, VladaptError, check_given
from .declared import (
    JUDGEMENT,
    METAVARS,
    TASK,
    Declared,
    declared_options,
    doctor_options,
    few_choices,
    judgement_options,
    options_of_domain,
    options_of_task,
)

KINDS = {"int": int, "float": float, "bool": bool, "list[str]": list[str]}
"""Types that Typer reads; a value of another comes as text."""


SAMPLES = re.compile(r"image|patient", re.IGNORECASE)
OWN_CODE = {"backbone": with_own_code, "backbones": with_own_code, "teacher": with_own_teachers}
"""What may be the user's own code, which runs where it is named here."""


def flag(each: Option, help: str = "", name: str = "", hidden: bool = False, many: bool = False) -> Any:
    """A field as an annotation for Typer. What is not given is None: the help says what then holds.

    Args:
        help: in place of the field's own.
        name: of the flag, in place of the field's.
        hidden: not shown in a command's help.
        many: may be given several times.
    """
    bounds = each.bounds
    worded = bounds.parse is not None or bounds.metavar == METAVARS["bool"]  # yes or no, not a switch
    kind = str if worded else KINDS.get(annotation(each.kind).removesuffix(" | None"), str)
    kind = list[str] if many else kind
    named = f"--{(name or each.name).rstrip('_').replace('_', '-')}"
    how = {
        "metavar": bounds.metavar or few_choices(bounds.choices) or None,
        "rich_help_panel": bounds.group or None,
        "hidden": hidden,
    }
    run = OWN_CODE.get(each.name)
    return Annotated[kind | None, typer.Option(named, help=help or each.sentence, **how, callback=run)]


Backbone, Device = flag(KEYS["backbone"]), flag(KEYS["device"])
Out, Generic = flag(KEYS["out"]), flag(KEYS["generic"])
OwnBackbone = flag(KEYS["backbone"], "The run's backbone on this machine, if it is not where the run says.")
Run = Annotated[
    str, typer.Argument(help="A run folder, or hf:OWNER/NAME or hf:OWNER/NAME@REVISION on the Hugging Face hub.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any option, for instance adapter.alpha=2. Repeatable.",
        rich_help_panel=METHOD,
    ),
]
Resource = Annotated[
    list[str] | None,
    typer.Option(
        "--resource",
        metavar="NAME=PATH",
        help="What some methods need besides images: descriptions, captions, boxes, support-folder, synonyms, ctx (a "
        "run that learned one); base=RUN (a fitted run to start from); further-backbones=SPEC,SPEC. Repeatable.",
        rich_help_panel=METHOD,
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Packaged recipe (`vladapt list recipes`).",
        rich_help_panel=METHOD,
    ),
]
ConfigFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="Your own recipe file (.py, .json, .yaml), or an mmengine config. It is run as code: give only files that "
        "you trust.",
        rich_help_panel=METHOD,
    ),
]
PLACE = "place"
"""Of a data set or a features file: it may stand without its flag."""
Place = Annotated[
    str | None,
    typer.Argument(metavar="DATA", help="Data set or features file; the same as --data DATA, --features DATA."),
]
FollowLinks = Annotated[
    list[str] | None,
    typer.Option(
        "--follow-links",
        metavar="ROOT",
        help="Also read images that are links to files below this folder, as DVC and git-annex make them. Repeatable.",
        rich_help_panel=DATA,
        hidden=True,  # the message on a link that is not followed names it
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else on stdout.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of a failure.")]
BESIDE = {"recipe": RecipeName, "config": ConfigFile, "sets": Sets, "resource": Resource}
"""Flags of a recipe that are no keys of it."""
MIXING = ("samples", "stages")
"""Options of several sources that are flags."""
PLACES = ("out", "html")
"""Flags that name what a command writes."""
OPTIONAL_VALUES = {"--novel": "rest"}
WORDS = {("novel", "rest"): True, ("val_shots", "none"): 0}
"""(key, word) -> the value that it stands for."""
HELP = {"--help", "-h"}
FIT = "fit"
JUDGED = {"fit": FIT, "evaluate": "eval", "predict": "predict"}
"""Function of a command -> what `Judgement.at` calls it."""
PANELS = (DATA, COMPARED, METHOD, JUDGING, OUTPUT)
"""Headings of a command's help, in order; those of domains follow."""


class ParameterSource(ABC):
    """What a parameter of a command is made from, as the last word of its annotation."""

    @abstractmethod
    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        """The flags of a command line.

        Args:
            arguments: of the command line, which may name a domain.
            taken: names of the command's own parameters, which win over those of domains.
        """


@dataclass
class Flags:
    """Flags in place of a parameter.

    Attributes:
        annotations: name -> annotation, for Typer.
        made: the parameter's value, of those that are given by name.
    """

    annotations: dict[str, Any]
    made: Callable[[dict[str, Any]], Any]


@dataclass(frozen=True)
class Given:
    """What was given of a recipe.

    Attributes:
        named, config: a packaged recipe, and a file.
        sets: texts of `--set`.
        flags: key of the recipe -> value.
    """

    named: str | None = None
    config: str | None = None
    sets: Sequence[str] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)

    def recipe(self) -> Recipe:
        """The recipe that a packaged one, a file, `--set` and the flags make, in this order of weight."""
        from ..recipes.resolve import resolve

        return resolve(recipe=self.named, config=self.config, sets=self.sets, flags=self.flags)


@dataclass(frozen=True)
class FromRecipe(ParameterSource):
    """Flags of a recipe, and of the domain that it is for; they become a `Given`.

    Args:
        keys: names of the recipe's keys that are flags here, of `TRAINED` and of `BESIDE`; by default all.
        helps: key -> help, where it is not that of the field.
        judged: when judgements are made whose options are flags too, as `Judgement.at` says; None: never.
        several: whether `--data` may be given several times, as sources of one training.
        place: whether the data may stand without a flag.
    """

    keys: str = ""
    helps: Mapping[str, str] = field(default_factory=dict)
    judged: str | None = None
    several: bool = False
    place: bool = False

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        known = {name: each for name, each in {**KEYS, **TRAINED}.items() if each.bounds.group}
        listed = self.keys.split() or [*known, *BESIDE]
        # what only some trainings of towers take stands with the options of domains
        hidden = (
            {"generic", "teacher", "language"} if self.judged == FIT and _domain_and_task(arguments)[0] is None else ()
        )
        own = {
            name: BESIDE[name] if name in BESIDE else flag(known[name], self.helps.get(name, ""), hidden=name in hidden)
            for name in listed
        }
        if self.several:
            own["data"] = flag(known["data"], many=True)
            own |= {each.name: flag(each, hidden=True) for each in options_of(SourceOptions) if each.name in MIXING}
        own |= {PLACE: Place} if self.place else {}
        of_domains, declared = _of_domains(arguments, {*taken, *own}, self.judged)

        def made(given: dict[str, Any]) -> Given:
            if PLACE in given:
                place = given.pop(PLACE)
                named = flag_of_place(place, given)
                given[named] = [place] if named == "data" and self.several else place
            sources = given.get("data") if self.several else None
            if sources:
                weighed = len(sources) > 1 or "=" in sources[0]
                given["data"] = parse_sources(sources)[0].path if weighed else sources[0]
            beside = {name: given.pop(name, None) for name in BESIDE}
            mixing = {f"sources.{name}": given.pop(name) for name in MIXING if self.several and name in given}
            given |= {name: value for (name, word), value in WORDS.items() if given.get(name) == word}
            flags = {_key(name, declared): value for name, value in given.items()}
            joined = {key: ",".join(value) for key, value in flags.items() if isinstance(value, list)}
            flags |= {key: value for key, value in joined.items() if key not in declared}
            flags |= resource_flags(beside["resource"])
            flags |= {**mixing, **({"sources.data": sources} if sources and len(sources) > 1 else {})}
            return Given(beside["recipe"], beside["config"], beside["sets"] or (), flags)

        return Flags({**own, **of_domains}, made)


def flag_of_place(place: str, given: Mapping[str, Any]) -> str:
    """ "data" or "features", as which a place that stands alone is taken.

    Raises:
        ConfigError: one of them is given too.
    """
    if beside := [f"--{name}" for name in ("data", "features") if given.get(name)]:
        raise ConfigError(f"{place} and {beside[0]}: give one of them")
    return "features" if holds_features(place) else "data"


@dataclass(frozen=True)
class FromUse(ParameterSource):
    """Flags of a command on a run (or an index), which become keywords of the function that does it.

    Args:
        command: as `UseOptions` calls it.
    """

    command: str

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        listed = {name: each for name, each in USE.items() if self.command in each.bounds.commands}
        own = {name: flag(each) for name, each in listed.items() if each.bounds.group}
        own |= {"resource": Resource} if "resources" in listed else {}
        of_domains, declared = _of_domains(arguments, {*taken, *own}, JUDGED.get(self.command))

        def made(given: dict[str, Any]) -> dict[str, Any]:
            how = {name: value for name, value in given.items() if name not in declared}
            resources = with_own_backbones(resources_of(how.pop("resource", None)))
            how |= {"resources": resources} if resources else {}
            how |= {name: given[name] for name in given if name in declared and declared[name].kind == JUDGEMENT}
            asked = {declared[name].key: given[name] for name in given if name in declared and name not in how}
            return {**how, "reading": reading_of(asked)} if asked else how

        return Flags({**own, **of_domains}, made)


@dataclass(frozen=True)
class FromOptions(ParameterSource):
    """Flags of a dataclass of options, which become keywords of the function that takes them.

    Args:
        keys: names of those that are flags; by default all.
    """

    options: type
    keys: str = ""

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        options = {each.name: each for each in options_of(self.options)}
        options = {name: options[name] for name in self.keys.split() or options}

        def made(given: dict[str, Any]) -> dict[str, Any]:
            return {name: _listed(options[name], value) for name, value in given.items()}

        return Flags({name: flag(each) for name, each in options.items()}, made)


@dataclass(frozen=True)
class FromEncoding(ParameterSource):
    """Flags that say with which backbone pictures are encoded, and how; those given become keywords."""

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        known = KEYS["backbone"], KEYS["device"], USE["batch_size"], KEYS["workers"]
        return Flags({each.name: flag(each) for each in known}, dict)


@dataclass(frozen=True)
class FromTask(ParameterSource):
    """Flags of a task's options.

    Args:
        task: one of this package that stands in no domain.
        keys: names of those of its options that are flags.
    """

    task: str
    keys: str

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        known, flags = {each.name: each for each in options_of_task(self.task)}, {}
        for each in (known[name] for name in self.keys.split()):
            kind = KINDS.get(each.type.removesuffix(" | None"), str)
            flags[each.name] = Annotated[kind | None, typer.Option(each.flag, metavar=each.metavar, help=each.sentence)]
        return Flags(flags, dict)


@dataclass(frozen=True)
class FromDoctors(ParameterSource):
    """Flags that the doctors of domains declare; they become option -> text."""

    def flags(self, arguments: Sequence[str], taken: Collection[str]) -> Flags:
        return Flags({each.name: _annotation(each, True) for each in doctor_options()}, dict)


def with_flags(command: Callable, arguments: Sequence[str]) -> Callable:
    """The command as Typer takes it: in place of each parameter annotated with a `ParameterSource`, its flags; and
    `--debug`, which `cli.py` reads. One that has `--debug` itself, as those of other packages may, stays as it is.

    Args:
        arguments: of the command line. Help shows the options of the domain that they name, or whose run they name.
    """
    plain, hints = inspect.signature(command), typing.get_type_hints(command, include_extras=True)
    if "debug" in plain.parameters:
        return command
    sources = {name: source for name, hint in hints.items() if (source := _source(hint)) is not None}
    own = plain.parameters.keys() - sources.keys()
    made = {name: source.flags(arguments, own) for name, source in sources.items()}
    parameters = []
    for name, parameter in plain.parameters.items():
        flags = made[name].annotations if name in made else {}
        parameters += [
            inspect.Parameter(each, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
            for each, annotation in flags.items()
        ] or [parameter.replace(annotation=hints.get(name, parameter.annotation), kind=inspect.Parameter.KEYWORD_ONLY)]

    if any(isinstance(source, (FromRecipe, FromUse, FromTask)) for source in sources.values()):
        linked = inspect.Parameter("follow_links", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=FollowLinks)
        parameters.append(linked)
    parameters.append(inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug))
    parameters.sort(key=lambda each: _place(each.annotation))
    for each in parameters:
        _name_value(each.annotation)

    @functools.wraps(command)
    def run(debug: bool = False, **given: Any):
        times = sum(word.partition("=")[0] == "--data" for word in arguments)
        if times > 1 and isinstance(given.get("data"), str):  # of which the parser forgets all but the last
            raise ConfigError(f"--data: given {times} times; give one data set (`vladapt compare` takes several)")
        for name, value in given.items():
            _check_given(shown.__signature__.parameters[name], value)
            if name in PLACES:
                places = [value] if isinstance(value, str) else value or ()
                for place in (each for each in places if "://" not in str(each)):  # no URL
                    check_writable(place, f"--{name}")
        if roots := given.pop("follow_links", None):
            links.follow_links(roots)
        values = {}
        for name, flags in made.items():
            taken = {each: given.pop(each) for each in flags.annotations}
            values[name] = flags.made({each: value for each, value in taken.items() if value is not None})
        return command(**given, **values)

    shown: Any = run
    shown.__signature__ = plain.replace(parameters=parameters)
    shown.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    paragraphs = (inspect.getdoc(command) or "").split("\n\n")
    shown.__doc__ = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
    del shown.__wrapped__
    return shown


def _check_given(parameter: inspect.Parameter, value: Any) -> None:
    """Raise the ConfigError of an empty text, in the name that the user knows."""
    info = getattr(parameter.annotation, "__metadata__", (None,))[-1]
    if isinstance(info, typer.models.ArgumentInfo):
        check_given(info.metavar or parameter.name.upper(), value, "give one")
        return
    words = (getattr(info, "default", None), *(getattr(info, "param_decls", None) or ()))  # the first stands as default
    flags = [word for word in words if isinstance(word, str) and word.startswith("--")]
    check_given((flags or [f"--{parameter.name.replace('_', '-')}"])[0], value)


def _name_value(annotation: Any) -> None:
    """Say in our words what value a flag takes, where it does not: a switch takes none."""
    kind, info = getattr(annotation, "__origin__", None), getattr(annotation, "__metadata__", (None,))[-1]
    if isinstance(info, typer.models.OptionInfo) and info.metavar is None:
        kinds = {getattr(each, "__name__", "") for each in (kind, *typing.get_args(kind))}
        info.metavar = "" if "bool" in kinds else next((METAVARS[each] for each in METAVARS if each in kinds), None)


def _place(annotation: Any) -> int:
    """Of a flag in the help: under which heading."""
    panel = getattr(getattr(annotation, "__metadata__", (None,))[-1], "rich_help_panel", None)
    return 0 if panel is None else PANELS.index(panel) + 1 if panel in PANELS else len(PANELS) + 1


def epilog_of(name: str, command: Callable) -> str | None:
    """The last line of a command's help: where the options of a domain are."""
    sources = [_source(hint) for hint in typing.get_type_hints(command, include_extras=True).values()]
    if any(isinstance(source, FromRecipe) for source in sources):
        return f"Options of a domain: vladapt {name} --domain NAME --help"
    of = {"run": "run's domain: vladapt {} RUN --help", "index": "index's domain: vladapt {} INDEX --help"}
    whose = next((of[each] for each in inspect.signature(command).parameters if each in of), "")
    return f"Options of the {whose.format(name)}" if any(isinstance(source, FromUse) for source in sources) else None


def _source(hint: Any) -> ParameterSource | None:
    return next((each for each in getattr(hint, "__metadata__", ()) if isinstance(each, ParameterSource)), None)


def _key(name: str, declared: Mapping[str, Declared]) -> str:
    """The recipe's key of a flag."""
    if name in declared:
        return declared[name].key
    return f"adapter.{name}" if name in TRAINED else f"{name}.{GROUPS[name]}" if name in GROUPS else name


def _listed(each: Option, value: Any) -> Any:
    """Names, or numbers, that stand in one text; another value as it is."""
    sequence = next((kind for kind in typing.get_args(each.kind) if typing.get_origin(kind) is tuple), None)
    if sequence is None:
        return value
    of_names = str in typing.get_args(sequence)
    return names(value) if of_names else numbers(f"--{each.name}", value, ALL if each.name == "shots" else None)


def _of_domains(
    arguments: Sequence[str], taken: Collection[str], judged: str | None = None
) -> tuple[dict[str, Any], dict[str, Declared]]:
    """Annotations, and what is declared, of the options of domains, by name.

    Args:
        taken: names that are flags of the command.
        judged: when judgements are made whose options are flags too, as `Judgement.at` says; None: never.
    """
    domain, task = _domain_and_task(arguments)
    of_judgements = judgement_options(judged) if judged else []
    shown = list(options_of_domain(domain, task) if domain else ())
    if judged != FIT:
        shown += of_judgements
    elif domain:
        shown += judgement_options(judged, domain, task)
    visible = {(each.key, each.owner) for each in shown}
    options = [*declared_options(domain), *of_judgements, *shown]
    declared = {each.name: each for each in options if each.name not in taken}
    return {name: _annotation(each, (each.key, each.owner) in visible) for name, each in declared.items()}, declared


def _annotation(each: Declared, shown: bool) -> Any:
    panel = JUDGING if each.kind == JUDGEMENT else f"Options of {'task ' * (each.kind == TASK)}{each.owner}"
    how = {"metavar": each.metavar, "rich_help_panel": panel, "hidden": not shown}
    kind = list[str] if each.kind == JUDGEMENT and each.type.startswith("tuple[str") else str
    return Annotated[kind | None, typer.Option(each.flag, help=each.sentence, **how)]


def resource_flags(given: list[str] | None) -> dict[str, Any]:
    """What `resources_of` gives, as keys of a recipe; descriptions are a key of their own."""
    paths = with_own_backbones(resources_of(given))
    return {name if name == "descriptions" else f"resources.{name}": value for name, value in paths.items()}


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
        return None if text is None else [None if each == unlimited else int(each) for each in names(text) or ()]
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
        if not argument.startswith("--") or not following.startswith("-") or argument in HELP:
            continue
        if argument in OPTIONAL_VALUES:
            completed.append(OPTIONAL_VALUES[argument])
        elif argument in {each.flag for each in _switches(_named(arguments, "--domain"))}:
            completed.append("yes")
    return completed


def _switches(domain: str | None) -> list[Declared]:
    return [each for each in (*declared_options(domain), *judgement_options()) if each.switch]


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


def in_words_of(arguments: Sequence[str], message: str) -> str:
    """`error_in_words` of the domain, or of the recipe's, that a command line names."""
    domain = _named(arguments, "--domain") or (_named(arguments, "--recipe") or "").partition("/")[0]
    if not domain or not SAMPLES.search(message):
        return message
    from ..runs.sections import error_in_words, words_in

    with suppress(VladaptError):
        flags = {flag: _named(arguments, flag) for flag in arguments if flag.startswith("--")}
        reading = {flag.removeprefix("--").replace("-", "_"): value for flag, value in flags.items()}
        return error_in_words(message, words_in(domain, _named(arguments, "--task"), reading), arguments)
    return message


def _named(arguments: Sequence[str], flag: str) -> str | None:
    """What stands behind a flag."""
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{flag}="):
            return argument.partition("=")[2]
        if argument == flag:
            return next(iter(arguments[place + 1 : place + 2]), None)
    return None
