"""What each line of help must have, and must not."""

import re

import pytest
import typer

from vladapt.core.commands.declared import declared_options, judgement_options
from vladapt.core.commands.fit import fit, predict
from vladapt.core.commands.options import with_flags
from vladapt.core.commands.search import index, search
from vladapt.core.commands.serve import serve
from vladapt.core.contracts.options import annotation
from vladapt.core.contracts.recipe import KEYS, TRAINED
from vladapt.core.contracts.use import USE
from vladapt.core.registry.catalogue import domains

MEANINGLESS = (
    "importing",
    "instance of",
    "dataclass",
    "settled",
    "joined",
    "the kept ones",
    "callable",
    "iterable",
    "dict",
)
"""Words of the code that tell a user nothing."""
MEASURED = re.compile(
    r"\d|number|share|probabilit|pixel|second|metre|frame|slice|voxel|side|weight|width|rank|stride|score|IoU|epoch|"
    r"images|times|rate|batch|seed|millimetre|how many|most",
    re.IGNORECASE,
)
"""What says in which unit a number is given, or how large it usually is."""


def lines() -> dict[str, tuple[str, str]]:
    """Option -> (type, help) of all flags."""
    helps = {f"--{each.name}": (annotation(each.kind), each.help) for each in [*KEYS.values(), *TRAINED.values()]}
    helps |= {f"{each.name} of a run": (annotation(each.kind), each.help) for each in USE.values()}
    declared = [*judgement_options(), *(each for name in [None, *domains()] for each in declared_options(name))]
    return helps | {f"{each.owner} {each.flag}": (each.type, each.help) for each in declared}


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[str, str]]:
    return lines()


def test_no_line_speaks_of_the_code(helps):
    bad = [
        f"{name}: {word}"
        for name, (_, help) in helps.items()
        for word in MEANINGLESS
        if re.search(rf"\b{word}\b", help)
    ]
    assert not bad


def test_a_number_has_a_unit_or_an_example(helps):
    numbers = {name: help for name, (kind, help) in helps.items() if kind.removesuffix(" | None") in ("int", "float")}
    assert len(numbers) > 50
    assert not [f"{name}: {help}" for name, help in numbers.items() if not MEASURED.search(help)]


def test_choices_are_named_in_the_value_or_in_the_line():
    (sampling,) = [each for each in declared_options("video") if each.name == "sampling"]
    assert sampling.metavar == "TEXT" and "one of uniform, uniform-random" in sampling.help
    (entries,) = [each for each in declared_options("video") if each.name == "entries"]
    assert entries.metavar == "frames|clips" and "one of" not in entries.help
    (column,) = [each for each in declared_options("medical") if each.name == "label_column"]
    assert column.metavar == "COLUMN"


@pytest.mark.parametrize(
    ("name", "value", "end"),
    [
        ("rerank_weight", "X", "of the original distance; by default 0.3"),
        ("camera_rule", "yes|no", "do not count; by default yes"),
        ("root", "DIR", "; by default their own"),
        ("paraphrases", "FILE", "none: no paraphrases"),
    ],
)
def test_a_line_says_its_default_once_and_whether_the_value_is_a_file(name, value, end):
    (of_people,) = [each for each in declared_options("person") if each.name == name]
    assert of_people.metavar == value and of_people.help.endswith(end) and of_people.help.count("default") < 2


def test_paragraphs_of_a_command_are_lines_that_the_terminal_breaks():
    def command():
        """Do one thing.

        Further words that the source
        has on two lines.
        """

    assert with_flags(command, []).__doc__ == "Do one thing.\n\nFurther words that the source has on two lines."


@pytest.mark.parametrize("command", [fit, predict, index, search, serve])
def test_a_flag_names_its_value_in_our_words_and_a_switch_takes_none(command):
    infos = [hint.__metadata__[-1] for hint in with_flags(command, ()).__annotations__.values()]
    flags = {info.default: info.metavar for info in infos if isinstance(info, typer.models.OptionInfo)}
    assert len(flags) > 8 and flags["--debug"] == ""
    assert {flag: value for flag, value in flags.items() if value is None} == {}


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ("search", "search [OPTIONS] INDEX [QUERY]"),
        ("show", "show [OPTIONS] [KIND] NAME"),
        ("embed", "embed [OPTIONS] [IMAGES...]"),
        ("curate", "curate [OPTIONS] COMMAND [ARGS]..."),
        ("curate filter", "curate filter [OPTIONS] [SOURCES...]"),
    ],
)
def test_help_shows_no_types_of_python(vladapt, words, usage):
    help = vladapt(*words.split(), "--help").out
    assert f"Usage: vladapt {usage}" in help
    assert not re.findall(r"<(?:str|bool|int|float|list\[\w+\])>", help)


def test_the_list_of_commands_is_broken_by_the_terminal_alone(vladapt):
    lines = [line.strip("│ ").rstrip() for line in vladapt("--help").out.splitlines()]
    assert " ".join(lines).count("with --protocol cross-dataset it was fitted for data of other classes") == 1


def test_few_choices_are_the_name_of_the_value(vladapt):
    help = vladapt("pretrain", "--help").out
    assert "image|text|towers" in help and "bf16|fp16" in help


LISTED = "domains adapters selectors curators compositions benchmarks tasks losses metrics judgements outputs"


@pytest.mark.parametrize("kind", LISTED.split())
def test_lists_say_whole_sentences_that_name_no_file_of_the_code(vladapt, kind):
    lines = [
        line.partition(" (of domain")[0].partition(" (experimental")[0]
        for line in vladapt("list", kind).out.splitlines()
    ]
    assert len(lines) > 1
    assert not [line for line in lines if line.rstrip()[-1] not in ".?)" or ".py" in line]
