"""The names of `vladapt.api` and `vladapt.testing` as tables of docs/api.md: each with its parameters and a line.

python benchmarks/api_page.py    # prints the page with its tables made again; the rest of it is written by hand
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from usage import print_help

from vladapt import api, testing

PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"
LONGEST = 150
"""Characters of a signature; of a longer one the first parameters are shown."""
CHECKS = {"contracts": ("adapter", "loss", "ContractError"), "data": ("domain",), "tasks and judgements": ("task",)}
"""Section -> what the names of `vladapt.testing` that stand there are about."""
HEADING = re.compile(r"^## (.+)$")


def names_of(section: str) -> list[str]:
    """Names of a section in the order of the page, those of `vladapt.testing` last."""
    listed = [name for names in api.SECTIONS[section].values() for name in names.split()]
    words = CHECKS.get(section, ())
    return listed + [name for name in dir(testing) if any(word in name.split("_") for word in words)]


def described(name: str) -> tuple[str, str]:
    """A name with its parameters and their types, and the first sentence of its docstring."""
    value = getattr(api if name in dir(api) else testing, name)
    text = inspect.getdoc(value) if callable(value) or inspect.ismodule(value) else ""
    sentence = re.split(r"(?<=\.)\s", " ".join((text or "").split("\n\n")[0].split()), maxsplit=1)[0]
    return f"{name}{_signature(value)}", sentence or f"a {type(value).__name__}"


def page() -> str:
    """docs/api.md with its tables made again."""
    return "\n".join(_lines(PAGE.read_text(encoding="utf-8").splitlines())) + "\n"


def _lines(old: list[str]) -> Iterator[str]:
    section = None
    for line in old:
        if heading := HEADING.match(line):
            section = heading[1].lower() if heading[1].lower() in api.SECTIONS else None
        if section is None or not line.startswith("|"):
            yield line
        elif line.startswith("|---"):
            yield line
            yield from (_row(*described(name)) for name in names_of(section))
        elif line.startswith("| name"):
            yield line


def _row(signature: str, sentence: str) -> str:
    """A row of a table in which a bar of the signature is no border."""
    return "| `{}` | {} |".format(*(text.replace("|", "\\|") for text in (signature, sentence)))


def _signature(value: Any) -> str:
    """(features: Tensor, seed: int = 0) -> Tensor; nothing for what is not called with parameters of its own."""
    if not callable(value) or (inspect.isclass(value) and issubclass(value, Exception)):
        return ""
    try:
        signature = inspect.signature(value)
    except ValueError:
        return ""
    shown = [_parameter(each) for each in signature.parameters.values()]
    back = (
        ""
        if inspect.isclass(value) or signature.return_annotation is signature.empty
        else _type(signature.return_annotation)
    )
    while len(", ".join(shown)) > LONGEST:
        shown = [*shown[:-2], "…"] if shown[-1] == "…" else [*shown[:-1], "…"]
    return f"({', '.join(shown)})" + (f" -> {back}" if back else "") if shown or not inspect.isclass(value) else ""


def _parameter(parameter: inspect.Parameter) -> str:
    star = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
    kind = "" if parameter.annotation is parameter.empty else f": {_type(parameter.annotation)}"
    plain = parameter.default is None or isinstance(parameter.default, bool | int | float | str)
    default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}" if plain else " = …"
    return f"{star}{parameter.name}{kind}{default}"


def _type(annotation: Any) -> str:
    return annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))


if __name__ == "__main__":
    print_help(__doc__)
    print(page(), end="")
