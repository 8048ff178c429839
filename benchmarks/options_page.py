"""The tables of options in docs/options.md.

python benchmarks/options_page.py > docs/options.md
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from usage import print_help

from vladapt.core.commands.declared import (
    Declared,
    doctor_options,
    judgement_options,
    options_of_domain,
)
from vladapt.core.contracts.options import Option, options_of
from vladapt.core.contracts.recipe import KEYS, TRAINED
from vladapt.core.contracts.task import Axes
from vladapt.core.contracts.use import USE
from vladapt.core.registry import catalogue

HEAD = """# Options

Each option is one field in the source. From it come the flag, the keyword in Python, the line in `--help` and the row
on this page, which `python benchmarks/options_page.py` prints. `vladapt show NAME` prints the options of a method.
"""
COMMANDS = {"evaluate": "eval"}
"""What a function is called on the command line, where it has another name there."""
SECTIONS = {
    "Of a fit": (
        "Flags of `fit`, of which `compare`, `embed`, `index` and `select` take some; keywords of `vladapt.fit`. Where "
        "there is no flag, give `--set NAME=VALUE`.",
        ("option", "what it is"),
    ),
    "Of a comparison": ("Flags of `compare`, keywords of `vladapt.compare`.", ("option", "what it is")),
    "Of what is said of a fit, and of a run that is used again": (
        "Flags and keywords of the commands named. Where there is no flag, it is a keyword only.",
        ("option", "of", "what it is"),
    ),
}
OF_DOMAIN = "What its reader takes, then what its tasks take. `vladapt fit --domain {name} --help` shows the same."


def main() -> None:
    """Print the page."""
    of_fit = [(_name(each), each.sentence) for each in (*KEYS.values(), *TRAINED.values())]
    of_comparison = [(_name(each), each.sentence) for each in options_of(Axes)]
    of_use = [(_name(each), _commands(each.bounds.commands), each.sentence) for each in USE.values()]
    of_use += [(_flag(each), ", ".join(each.at), each.sentence) for each in judgement_options()]
    print(HEAD, end="")
    for (title, (words, head)), rows in zip(SECTIONS.items(), (of_fit, of_comparison, of_use)):
        _print_section(title, words, head, rows)
    for name, entry in sorted(catalogue.domains().items()):
        if entry.entry_point is None:
            words = OF_DOMAIN.format(name=name)
            _print_section(f"Of domain {name}", words, ("option", "of", "what it is"), _rows(options_of_domain(name)))
    _print_section("Of doctor", "Flags of `vladapt doctor`.", ("option", "of", "what it is"), _rows(doctor_options()))


def _name(each: Option) -> str:
    """Its flag and what the flag's value is called, or where there is none its name."""
    named = f"--{each.name.replace('_', '-')} {each.bounds.metavar}".strip() if each.bounds.group else each.name
    return f"`{named}`".replace("|", "\\|")


def _commands(names: Iterable[str]) -> str:
    return ", ".join(COMMANDS.get(name, name) for name in names)


def _rows(options: Iterable[Declared]) -> Iterator[tuple[str, str, str]]:
    for each in options:
        owner = f"task {each.owner}" if each.kind == "task" else each.owner
        yield _flag(each), owner, each.sentence


def _flag(each: Declared) -> str:
    return f"`{each.flag} {each.metavar}`".replace("|", "\\|")


def _print_section(title: str, words: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> None:
    print(f"\n## {title}\n\n{words}\n")
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for *cells, what in rows:
        print("| " + " | ".join([*cells, what.replace("|", "\\|").replace("<", "\\<")]) + " |")


if __name__ == "__main__":
    print_help(__doc__)
    main()
