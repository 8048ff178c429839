"""What pictures of people are asked for: garments, their colours and carried things (`questions.json`).

Nothing there asks for gender, age or ethnicity. A file of the user's own may ask for more: a JSON object of questions,
each with its values:

    {"gender": {"ask": ["a photo of {}."], "values": {"woman": ["a woman"], "man": ["a man"]}, "subject": true}}

`ask` are prompts with `{}` for the first wording of a value (or for what `asked` says of it), `values` the wordings of
sentences, `colour_of` the question of the thing that a colour belongs to, `subject` says that the wordings stand in the
place of "a person". A value "none" is said of nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from ....core.errors import DataError
from ....core.prompts import check_templates
from ....core.runtime import read_json

QUESTIONS_FILE = Path(__file__).with_name("questions.json")
NONE = "none"
MOST_VALUES = 200
KEYS = ("ask", "values", "asked", "colour_of", "subject")


@dataclass(frozen=True)
class AttributeQuestion:
    """One attribute.

    Args:
        name: of it.
        ask: prompts with `{}`.
        values: value -> wordings, the first of which is asked.
        asked: value -> what is asked instead of its first wording.
        colour_of: the question whose thing has this colour, or "".
        subject: whether a value is who it is: "a woman".
    """

    name: str
    ask: tuple[str, ...]
    values: Mapping[str, tuple[str, ...]]
    asked: Mapping[str, str] = field(default_factory=dict)
    colour_of: str = ""
    subject: bool = False

    def prompts(self, value: str) -> list[str]:
        """What is asked of one value."""
        words = self.asked.get(value) or self.values[value][0]
        return [prompt.replace("{}", words) for prompt in self.ask]


def usual_questions() -> list[AttributeQuestion]:
    """Garments, colours and carried things."""
    return [_question(name, of, QUESTIONS_FILE) for name, of in _file()["questions"].items()]


def contradictions() -> list[tuple[tuple[str, str], tuple[str, str]]]:
    """Pairs of (question, value) that do not go together."""
    return [tuple(tuple(side) for side in pair) for pair in _file()["contradictions"]]


def questions_with(path: Path) -> list[AttributeQuestion]:
    """The usual ones, and those of a file, which replace usual ones of the same name.

    Raises:
        DataError: the file is not as the docstring of this module says.
    """
    content = read_json(path)
    if not isinstance(content, dict) or not content:
        raise DataError(f"{path}: not a JSON object of questions; write {{name: {{ask: [...], values: {{...}}}}}}")
    questions = {each.name: each for each in usual_questions()}
    questions.update({name: _question(name, of, path) for name, of in content.items()})
    for each in questions.values():
        if each.colour_of and each.colour_of not in questions:
            raise DataError(
                f"{path}: '{each.name}' is the colour of '{each.colour_of}', which is not asked about; add "
                "that question"
            )
    return list(questions.values())


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return json.loads(QUESTIONS_FILE.read_text(encoding="utf-8"))


def _question(name: str, of: Any, path: Path) -> AttributeQuestion:
    keys = set(of) if isinstance(of, dict) else set()
    if (unknown := sorted(keys - set(KEYS))) or not {"ask", "values"} <= keys:
        said = f"'{unknown[0]}' is not known" if unknown else "ask or values is missing"
        raise DataError(f"{path}: question '{name}': {said}; give {', '.join(KEYS)}, the first two always")
    ask, values, asked = of["ask"], of["values"], of.get("asked") or {}
    if not _texts(ask) or not isinstance(values, dict) or not all(_texts(each) for each in values.values()):
        raise DataError(f"{path}: question '{name}': ask and each of values must be lists of texts; correct it")
    if not 2 <= len(values) <= MOST_VALUES:
        raise DataError(f"{path}: question '{name}' has {len(values)} values; give 2 to {MOST_VALUES}")
    if not isinstance(asked, dict) or not all(isinstance(text, str) for text in asked.values()):
        raise DataError(f"{path}: question '{name}': asked must be an object of texts; correct it")
    check_templates(ask)
    worded = {value: tuple(each) for value, each in values.items()}
    return AttributeQuestion(name, tuple(ask), worded, asked, str(of.get("colour_of") or ""), of.get("subject") is True)


def _texts(value: Any) -> bool:
    listed: Sequence[Any] = value if isinstance(value, list) else ()
    return bool(listed) and all(isinstance(text, str) and text.strip() for text in listed)
