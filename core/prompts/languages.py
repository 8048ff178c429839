"""What classes are called in a language, and the prompts of that language: JSON files, packaged and of a user's own.

    {"code": "de", "language": "German", "templates": ["ein Foto von {}."], "negative": ["ein Foto ohne {}."],
     "classes": {"apple": "Apfel"}}

All keys but one of `templates` and `classes` may be missing. `negative` are the templates that say that a class is
absent, `sentences` {class: [texts that it is there, texts that it is not]} in place of templates, `kinds` {kind of
images: {"templates", "negative", "sentences"}} what is asked of some images alone (radiographs). Names of classes are
matched without regard to case, and to spaces against underscores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..contracts.items import DomainData, spoken
from ..errors import ConfigError, DataError, UnknownNameError, did_you_mean, shortened
from ..runtime.reading import read_json

EXAMPLE = 'write {"templates": ["ein Foto von {}."], "classes": {"apple": "Apfel"}}'
TEXTS = ("templates", "negative")
OF_KINDS = (*TEXTS, "sentences")
FACTS = ("code", "language")
LISTED = 5
"""Names in a note at most."""
Sentences = Mapping[str, tuple[list[str], list[str]]]


def read_language(place: str, packaged: Mapping[str, Path], owner: str) -> dict[str, Any]:
    """The content of a language file, checked.

    Args:
        place: a code ("de"), or a file of the user's own.
        packaged: code -> file, of a domain.
        owner: the domain's name, for messages.

    Raises:
        UnknownNameError: neither a file nor a language that the domain has. DataError: a file of another form.
    """
    if place.lower() in packaged:
        file = packaged[place.lower()]
    elif Path(place).suffix.lower() == ".json":
        file = Path(place)
    else:
        there = f"it has {', '.join(sorted(packaged))}" if packaged else "it has none"
        raise UnknownNameError(
            f"--language {place}: domain '{owner}' has no prompts in this language; {there}; or give a FILE.json"
        )
    content = read_json(file, EXAMPLE)
    check_language(content, str(file))
    return {"code": file.stem.lower(), "language": file.stem, **content}


def check_language(content: Any, place: str) -> None:
    """Raise the DataError of what is no language file."""
    if not isinstance(content, Mapping) or not (content.get("templates") or content.get("classes")):
        raise DataError(f"{place}: has neither templates nor classes; {EXAMPLE}")
    keys = (*FACTS, *OF_KINDS, "classes", "kinds")
    for key in content.keys() - set(keys):
        raise DataError(f"{place}: unknown key '{shortened(str(key))}'; {did_you_mean(str(key), keys)}")
    for key in FACTS:
        if not isinstance(content.get(key, ""), str):
            raise DataError(f"{place}: '{key}' is not a text; {EXAMPLE}")
    classes, kinds = content.get("classes", {}), content.get("kinds", {})
    if not isinstance(classes, Mapping) or not all(isinstance(w, str) and w.strip() for w in classes.values()):
        raise DataError(f"{place}: 'classes' gives each class its name, a text; {EXAMPLE}")
    if not isinstance(kinds, Mapping) or not all(isinstance(texts, Mapping) for texts in kinds.values()):
        raise DataError(
            f'{place}: \'kinds\' gives each kind of images its texts; write {{"KIND": {{"templates": []}}}}'
        )
    for texts in (content, *kinds.values()):
        for key in TEXTS:
            _check_templates(texts.get(key, []), f"{place}: '{key}'")
        sentences = texts.get("sentences", {})
        if not isinstance(sentences, Mapping) or not all(map(_is_pair, sentences.values())):
            raise DataError(f"{place}: 'sentences' are pairs of lists; write {{class: [[it is there], [it is not]]}}")


def _check_templates(templates: Any, place: str) -> None:
    if not isinstance(templates, Sequence) or isinstance(templates, str):
        raise DataError(f"{place} is not a list; {EXAMPLE}")
    for template in templates:
        if not isinstance(template, str) or "{}" not in template:
            raise DataError(f"{place}: {shortened(repr(template))} has no {{}} for the class name; {EXAMPLE}")


def _is_pair(value: Any) -> bool:
    def texts(part: Any) -> bool:
        return isinstance(part, list) and bool(part) and all(isinstance(text, str) and text.strip() for text in part)

    return isinstance(value, list) and len(value) == 2 and all(map(texts, value))


@dataclass(frozen=True)
class ClassWords:
    """Names of classes and prompts in a language.

    Args:
        code, language: "de", "German".
        templates, negative: prompts, and those that say that a class is absent; none where the domain's stay.
        names: a class's comparable name -> what it is called.
        sentences: what a class is called -> texts that it is there, and that it is not, in place of templates.
    """

    code: str
    language: str
    templates: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    sentences: Sentences = field(default_factory=dict)

    @classmethod
    def of(cls, content: Mapping[str, Any], kind: str = "") -> ClassWords:
        """What a language file says of one kind of images."""
        texts = {**content, **content.get("kinds", {}).get(kind, {})}
        names = {name_key(name): spoken(word) for name, word in content.get("classes", {}).items()}
        named = {
            names.get(name_key(name), spoken(name)): (list(yes), list(no))
            for name, (yes, no) in texts.get("sentences", {}).items()
        }
        facts = str(content.get("code", "")), str(content.get("language", ""))
        return cls(*facts, tuple(texts.get("templates", ())), tuple(texts.get("negative", ())), names, named)

    def name(self, class_name: str) -> str:
        """What a class is called; its own name where the language has none."""
        return self.names.get(name_key(class_name), class_name)

    def applied(self, data: DomainData) -> DomainData:
        """The data whose classes are called so, with notes on those that keep their names.

        Raises:
            DataError: two classes have one name. ConfigError: several labels, and no prompts for their absence.
        """
        if self.templates and not self.negative and data.kind == "multilabel":
            raise ConfigError(f"--language {self.code}: add 'negative' templates, which several labels per image need")
        called = tuple(map(self.name, data.class_names))
        if twice := [name for name, count in Counter(called).items() if count > 1]:
            both = [old for old, new in zip(data.class_names, called) if new == twice[0]]
            raise DataError(
                f"--language {self.code}: classes '{both[0]}' and '{both[1]}' are both called '{twice[0]}'; "
                "give each its own name in a FILE.json"
            )
        notes = [] if self.templates else [f"--language {self.code} has no templates: the domain's are used."]
        words = {name_key(word) for word in self.names.values()}
        own = [name for name in data.class_names if name_key(name) not in self.names and name_key(name) not in words]
        if own:
            listed = ", ".join(own[:LISTED]) + (", ..." if len(own) > LISTED else "")
            notes.append(f"Classes without a name in {self.language}, which keep theirs: {len(own)} ({listed}).")
        return replace(data, class_names=called, notes=[*data.notes, *notes])


def name_key(class_name: str) -> str:
    """A class name as it is compared."""
    return spoken(class_name).casefold()
