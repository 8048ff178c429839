"""The findings that are looked for, and the words that name them: CheXpert's 14, and any of the user's own."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ....core.errors import DataError
from ....core.runtime import read_json

USUAL = Path(__file__).with_name("vocabulary.json")
GAP = "..."
"""In a phrase ("heart ... enlarged"): up to six words of a clause; the words after it are the place of the finding."""


@dataclass(frozen=True)
class FindingPhrase:
    """Words that name a finding.

    Attributes:
        finding: whose; "" for words that look like one and are none ("pericardial effusion").
        text: in any case, perhaps with a `GAP`.
        normal: whether the words say that the finding is not there ("heart ... normal").
    """

    finding: str
    text: str
    normal: bool = False


def phrases(path: str | Path | None = None) -> list[FindingPhrase]:
    """The usual phrases, and those of a file of the same form: `{"Hernia": {"words": ["hiatal hernia"], "normal":
    []}}`, or `{"Hernia": ["hiatal hernia"]}`.

    Raises:
        DataError: the file cannot be read, or is of another form.
    """
    listed = _phrases(json.loads(USUAL.read_text(encoding="utf-8")), USUAL)
    return listed if path is None else [*listed, *_phrases(read_json(Path(path)), Path(path))]


def _phrases(content: Any, path: Path) -> list[FindingPhrase]:
    made = []
    if not isinstance(content, dict):
        raise DataError(f'{path}: not a JSON object; give {{"finding": ["phrase", ...]}}')
    for finding, words in content.items():
        of_kind = words if isinstance(words, dict) else {"words": words}
        for kind, listed in of_kind.items():
            if kind not in ("words", "normal") or not isinstance(listed, list):
                raise DataError(f"{path}: '{finding}': give a list of phrases, or lists called words and normal")
            for text in listed:
                if not isinstance(text, str) or not all(part.strip() for part in text.split(GAP)):
                    raise DataError(f"{path}: '{finding}': {text!r} is no phrase; give words, or words {GAP} words")
                made.append(FindingPhrase(finding, text, normal=kind == "normal"))
    return made
