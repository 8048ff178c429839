"""The options that domains and tasks have, as an index in the folder of each: a command line imports no domain for it.

`domains/<d>/options.json` lists what the domain's reader takes (the fields of `reading`), what its doctor takes
(`DoctorOptions` in `doctor.py`) and what the tasks of its own take; `core/tasks/<t>/options.json` what a shared task
takes. Each names the source files it was made from, with checksums of what their classes assign: one that is missing,
of another format, or older than its sources is made again by importing the domain, and kept where the folder can be
written.
Options of a domain of another package are told by importing it, when it is named.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import DataError
from ..registry.catalogue import PACKAGE, PACKAGE_ROOT, domains, judgements, kebab

if TYPE_CHECKING:
    from ..contracts.judgement import Judgement
    from ..contracts.options import Option
    from ..contracts.task import Task

FILE, FORMAT = "options.json", 1
DECLARED = re.compile(rb"^ {4}\w+(?:: [^\n]*?)? = .*?(?=^ {0,4}\S|\Z)", re.MULTILINE | re.DOTALL)
"""What a class assigns, over all its lines: of a method that changes, options do not change."""
COMMANDS = ("fit", "eval", "predict")
"""Of `Judgement.at`: those whose flags options of judgements are."""
READING, TASK, JUDGEMENT, DOCTOR = "reading", "task", "judgement", "doctor"
METAVARS = {"bool": "yes|no", "int": "N", "float": "X", "str": "TEXT"}
METAVARS |= {f"tuple[{kind}, ...]": f"{word},{word}" for kind, word in {**METAVARS, "str": "NAME"}.items()}
LONGEST_CHOICES = 36
"""Characters of choices that are shown in place of "TEXT"."""
DOCTOR_FILE, DOCTOR_OPTIONS = "doctor.py", "DoctorOptions"


@dataclass(frozen=True)
class Declared:
    """One option.

    Args:
        kind: "reading" of a domain's reader, "task", "judgement" of what is said of a task's fits, or "doctor".
        owner: the domain, or the task.
        type: as an annotation.
        switch: whether it is yes or no and is no by default, so that its flag may stand alone for yes.
        help: one line, in lower case, without a full stop.
        value: what its value is called in help, where that does not follow from the type.
        at: of a judgement, where it is made: "fit", "eval", "predict".
    """

    kind: str
    owner: str
    name: str
    type: str
    switch: bool
    help: str
    value: str = ""
    at: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The recipe's key."""
        return f"data.{self.name}" if self.kind == READING else self.name

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    @property
    def metavar(self) -> str:
        """What its value is called in help."""
        usual = METAVARS.get(self.type.removesuffix(" | None"), "VALUE")
        return self.value or ("COLUMN" if usual == "TEXT" and self.name.endswith("column") else usual)

    @property
    def sentence(self) -> str:
        return f"{self.help[:1].upper()}{self.help[1:]}."


@dataclass(frozen=True)
class Index:
    """What one folder declares.

    Args:
        options: of its reader, its doctor, and the tasks whose files lie in it.
        tasks: names of the domain's tasks, its own and those of other folders.
    """

    options: tuple[Declared, ...] = ()
    tasks: tuple[str, ...] = ()


def options_of_domain(name: str, task: str | None = None) -> list[Declared]:
    """What a domain's reader and its tasks take; nothing where there is no such domain.

    Args:
        task: only this one of its tasks.
    """
    indices = {**_here(), **_elsewhere(name)}
    own = indices.get(name, Index())
    tasks = (task,) if task in own.tasks else own.tasks
    listed = [each for index in indices.values() for each in index.options if each.kind == TASK and each.owner in tasks]
    reading = [each for each in own.options if each.kind == READING]
    return reading + sorted(listed, key=lambda each: tasks.index(each.owner))


def declared_options(named: str | None = None) -> list[Declared]:
    """What the readers and tasks of domains take, each key once.

    Args:
        named: a domain; its options come first, also where it is of another package.
    """
    names = [*([named] if named else ()), *(name for name, index in _here().items() if index.tasks)]
    listed = [each for name in names for each in options_of_domain(name)]
    return list({each.key: each for each in reversed(listed)}.values())[::-1]


def options_of_task(name: str) -> list[Declared]:
    """What a task of this package takes."""
    return [each for index in _here().values() for each in index.options if (each.kind, each.owner) == (TASK, name)]


def judgement_options(at: str = "", domain: str | None = None, task: str | None = None) -> list[Declared]:
    """What the judgements take that tasks of this package make of a fit or a run, and those of others.

    Args:
        at: only those made in "fit", "eval" or "predict".
        domain: only those of its tasks.
        task: only those of this one of them.
    """
    places = [index for name, index in _here().items() if domain is None or name == domain or not index.tasks]
    listed = [each for index in places for each in index.options if each.kind == JUDGEMENT]
    if domain is not None:
        tasks = {**_here(), **_elsewhere(domain)}.get(domain, Index()).tasks
        listed = [each for each in listed if each.owner in tasks and task in (None, each.owner)]
    brought = [name for name, entry in judgements().items() if entry.entry_point is not None]
    if brought:
        from ..registry.build import judgement_class

        listed += [each for name in brought for each in _of_judgement(judgement_class(name), name)]
    return list({each.name: each for each in reversed(listed) if not at or at in each.at}.values())[::-1]


def doctor_options() -> list[Declared]:
    """Options of `vladapt doctor` that domains of this package declare (`core/engine/doctor.py`)."""
    return [each for index in _here().values() for each in index.options if each.kind == DOCTOR]


def option_folders() -> list[Path]:
    """Folders that have an index."""
    listed = [*(PACKAGE_ROOT / "domains").glob("*/__init__.py"), *(PACKAGE_ROOT / "core/tasks").glob("*/task.py")]
    return sorted(file.parent for file in listed)


def index_text(folder: Path) -> str:
    """The content of a folder's index, made by importing what the folder holds."""
    index, classes = _imported(folder)
    sources = sorted({file for cls in classes if (file := _source(cls))})
    head = {"format": FORMAT, "sources": {file: _checksum(PACKAGE_ROOT / file) for file in sources}}
    options = [{key: value for key, value in asdict(each).items() if value not in ("", ())} for each in index.options]
    lines = [f"  {json.dumps(each, ensure_ascii=False)}" for each in options]
    return f'{json.dumps({**head, "tasks": index.tasks})[:-1]}, "options": [\n' + ",\n".join(lines) + "\n]}\n"


@functools.cache
def _here() -> dict[str, Index]:
    """Folder's name -> its index, of this package."""
    return {kebab(folder.name): index for folder in option_folders() if (index := _read(folder)) is not None}


def _read(folder: Path) -> Index | None:
    """A folder's index, made again where it is not up to date; None of a folder that does not import, of which whoever
    imports it will complain."""
    with suppress(OSError, ValueError):
        content = json.loads((folder / FILE).read_bytes())
        if content["format"] == FORMAT and _up_to_date(content["sources"]):
            return _index(content)
    try:
        text = index_text(folder)
    except Exception:
        return None
    with suppress(DataError):  # of a folder that cannot be written
        write_index(folder, text)
    return _index(json.loads(text))


def write_index(folder: Path, text: str) -> None:
    from ..runtime.files import write_whole

    write_whole(folder / FILE, text)


def _index(content: dict[str, Any]) -> Index:
    return Index(tuple(Declared(**each) for each in content["options"]), tuple(content["tasks"]))


def _up_to_date(sources: dict[str, str]) -> bool:
    return all(_checksum(PACKAGE_ROOT / file) == checksum for file, checksum in sources.items())


def _checksum(file: Path) -> str:
    """Of what a file's classes assign, whatever its line ends are; "" where there is no such file."""
    text = b"".join(DECLARED.findall(b"\n".join(file.read_bytes().splitlines()))) if file.is_file() else b""
    return f"{zlib.crc32(text):08x}" if text else ""


def _imported(folder: Path) -> tuple[Index, list[type]]:
    """What a folder declares, and the classes that say so."""
    from ..registry.build import judgement_class, load_domain, task_class

    name = kebab(folder.name)
    if folder.parent.name == "tasks":
        cls = task_class(name)
        return Index(tuple(_of_task(cls)), ()), _classes_of(cls)
    domain = load_domain(name)
    classes = [type(domain), *_bases(domain.reading)]
    options = [*_listed(READING, name, domain.reading)]
    for file in sorted((folder / "tasks").glob("[!_]*.py")):
        cls = task_class(kebab(file.stem))
        classes += _classes_of(cls)
        options += _of_task(cls)
    for task, names in domain.judgements.items():
        for judgement in map(judgement_class, names):
            classes += _bases(judgement)
            options += _of_judgement(judgement, task)
    if (folder / DOCTOR_FILE).is_file():
        module = importlib.import_module(f"{PACKAGE}.domains.{folder.name}.{DOCTOR_FILE.removesuffix('.py')}")
        asked = getattr(module, DOCTOR_OPTIONS, None)
        classes += _bases(asked)
        options += _listed(DOCTOR, name, asked)
    return Index(tuple(options), domain.task_names), classes


def _elsewhere(name: str | None) -> dict[str, Index]:
    """{name: its index} of a domain of another package, which is imported; nothing of another name."""
    entry = None if name is None else domains().get(name)
    if name is None or entry is None or entry.entry_point is None:
        return {}
    from ..registry.build import load_domain, task_class

    domain = load_domain(name)
    own = [task_class(task) if isinstance(task, str) else task for task in domain.tasks]
    of_tasks = [each for cls in own for each in _of_task(cls)]
    return {name: Index((*_listed(READING, name, domain.reading), *of_tasks), domain.task_names)}


def _of_task(cls: type[Task]) -> Iterator[Declared]:
    yield from _listed(TASK, cls.name, cls.options)
    for judgement in _judgements(cls):
        yield from _of_judgement(judgement, cls.name)


def _of_judgement(cls: type[Judgement], owner: str) -> Iterator[Declared]:
    at = tuple(command for command in COMMANDS if command in cls.at)
    return _listed(JUDGEMENT, owner, cls, at) if at else iter(())


def _judgements(cls: type[Task]) -> list[type[Judgement]]:
    """Those that a task names itself."""
    from ..registry.build import judgement_class

    return [judgement_class(name) for name in cls.judgements]


def _classes_of(cls: type[Task]) -> list[type]:
    """Classes that say what a task takes."""
    return [cls, *_bases(cls.options), *(base for each in _judgements(cls) for base in _bases(each))]


def _listed(kind: str, owner: str, cls: type | None, at: tuple[str, ...] = ()) -> Iterator[Declared]:
    """The options of a dataclass."""
    from ..contracts.options import annotation, options_of

    for each in () if cls is None else options_of(cls):
        switch = each.kind is bool and each.default is False
        words, few = [str(choice) for choice in each.bounds.choices], few_choices(each.bounds.choices)
        in_help = few or all(re.search(rf"\b{re.escape(word)}\b", each.help) for word in words)
        sentence = each.help if in_help else f"{each.help}; one of {', '.join(words)}"
        sentence += _default_words(each)
        yield Declared(kind, owner, each.name, annotation(each.kind), switch, sentence, each.bounds.metavar or few, at)


def _default_words(each: Option) -> str:
    """A default that is a word, a number or yes, where the help does not say it."""
    value = "yes" if each.default is True else each.default
    shown = isinstance(value, (str, int, float)) and value is not False and value != ""
    words = f"{value:g}" if isinstance(value, float) else f'"{value}"' if " " in str(value) else value
    return f"; by default {words}" if shown and "default" not in each.help else ""


def few_choices(choices: Iterable[Any]) -> str:
    """What the value is called in help where there are few: those themselves, "" where they are long."""
    joined = "|".join(map(str, choices))
    return joined if len(joined) <= LONGEST_CHOICES else ""


def _bases(cls: type | None) -> list[type]:
    return [] if cls is None else list(cls.__mro__[:-1])


def _source(cls: type) -> str:
    """The file of a class, relative to the package; "" of one outside."""
    file = Path(sys.modules[cls.__module__].__file__ or "")
    return file.relative_to(PACKAGE_ROOT).as_posix() if file.is_relative_to(PACKAGE_ROOT) else ""
