"""Combine: sentences from attributes by a small grammar, in varied order and words.

Each sentence says who wears what and carries what. Which wording a value gets, which of four forms a sentence has, and
in which order garments come is drawn from the seed and the picture's name, so that a picture has the same sentences on
every machine.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ....core.contracts import option, settle
from .conquer import AttributeBelief
from .divide import coloured
from .questions import NONE, AttributeQuestion

PERSON = "a person"
WEARS = ("wears", "is wearing", "is dressed in", "has on")
CARRIES = ("carries", "is carrying")
CARRIED = frozenset({"bag", "carried"})
"""Questions of what is carried, not worn."""
TRIES = 8
"""Draws per wanted sentence until it differs from those before."""


GROUPINGS = ("text2facegan", "facecaption")
"""Of sentences about faces, see `faces.py`."""


@dataclass(frozen=True, kw_only=True)
class Captioning:
    """What is known of the pictures, how sentences are made of it, and the page that shows some."""

    attributes: str | None = option(
        None, "known attributes (CelebA's list, .mat, a table), or a .json of questions", metavar="FILE"
    )
    sentences: int = option(2, "sentences per picture, at most; by default 2", low=1, high=100)
    min_confidence: float = option(
        0.5, "probability from which an attribute is mentioned; by default 0.5", low=0, below=1, metavar="SHARE"
    )
    grouping: str = option(
        GROUPINGS[0], "of faces: text2facegan (six groups; the default) or facecaption (five)", choices=GROUPINGS
    )
    html: str | None = option(None, "write a page of a sample beside its sentences", metavar="FILE")
    shown: int = option(24, "pictures on that page; by default 24", low=1, high=1000)
    seed: int = option(0, "fixes order and words; by default 0", low=0)

    def __post_init__(self) -> None:
        settle(self, "person-captions")


@dataclass(frozen=True)
class Description:
    """What a sentence is made of; each part is a tuple of wordings.

    Args:
        subject: "a person".
        worn, carried: a list of things.
        extras: what comes behind the subject: "with long hair".
    """

    subject: tuple[str, ...] = (PERSON,)
    worn: tuple[tuple[str, ...], ...] = ()
    carried: tuple[tuple[str, ...], ...] = ()
    extras: tuple[tuple[str, ...], ...] = ()

    @property
    def says_nothing(self) -> bool:
        """Whether no more is known than that it is a person."""
        return not (self.worn or self.carried or self.extras) and self.subject == (PERSON,)


def described_person(answers: Mapping[str, AttributeBelief], questions: Sequence[AttributeQuestion]) -> Description:
    """The parts of a sentence from answers; each colour goes to its garment."""
    subject, worn, carried = (PERSON,), [], []
    colours = {each.colour_of: each for each in questions if each.colour_of}
    for each in questions:
        answer = answers.get(each.name)
        if answer is None or answer.value == NONE or each.colour_of:
            continue
        wordings = each.values[answer.value]
        if each.subject:
            subject = wordings
            continue
        colour = colours.get(each.name)
        if colour is not None and colour.name in answers:
            shades = colour.values[answers[colour.name].value]
            wordings = tuple(coloured(shade, wording) for wording in wordings for shade in shades)
        (carried if each.name in CARRIED else worn).append(wordings)
    return Description(subject, tuple(worn), tuple(carried))


def sentences(description: Description, count: int, seed: int, name: str) -> list[str]:
    """So many different sentences, or as many as the grammar has.

    Args:
        name: of the picture.
    """
    return different(lambda rng: _sentence(description, rng), count, seed, name)


def different(text: Callable[[np.random.Generator], str], count: int, seed: int, name: str) -> list[str]:
    """So many different texts, or as many as `TRIES` draws of each give; the draws are the same for a seed and name."""
    rng = np.random.default_rng([seed, zlib.crc32(name.encode("utf-8", "surrogatepass"))])
    made: dict[str, None] = {}
    for _ in range(TRIES * count):
        if len(made) == count:
            break
        made.setdefault(text(rng))
    return list(made)


def listed(parts: Sequence[str]) -> str:
    """ "a, b and c"."""
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else "".join(parts)


def as_sentence(text: str) -> str:
    """With a capital and a full stop."""
    return f"{text[0].upper()}{text[1:]}."


def _sentence(description: Description, rng: np.random.Generator) -> str:
    subject = _pick(description.subject, rng)
    extras = [_pick(each, rng) for each in description.extras]
    subject = f"{subject} {' and '.join(extras)}" if extras else subject
    worn = [_pick(each, rng) for each in description.worn]
    carried = [_pick(each, rng) for each in description.carried]
    worn = [worn[place] for place in rng.permutation(len(worn))]
    if not worn and not carried:
        return as_sentence(subject)
    return as_sentence(FORMS[int(rng.integers(len(FORMS)))](subject, worn, carried, rng))


def _plain(subject: str, worn: list[str], carried: list[str], rng: np.random.Generator) -> str:
    says = [f"{_pick(WEARS, rng)} {listed(worn)}"] if worn else []
    says += [f"{_pick(CARRIES, rng)} {listed(carried)}"] if carried else []
    return f"{subject} {' and '.join(says)}"


def _in(subject: str, worn: list[str], carried: list[str], rng: np.random.Generator) -> str:
    wearing = f" in {listed(worn)}" if worn else ""
    carrying = f"{',' if worn else ''} carrying {listed(carried)}" if carried else ""
    return f"{subject}{wearing}{carrying}"


def _carrying_first(subject: str, worn: list[str], carried: list[str], rng: np.random.Generator) -> str:
    if not carried:
        return f"{listed(worn)}, worn by {subject}"
    if not worn:
        return _in(subject, worn, carried, rng)
    return f"carrying {listed(carried)}, {subject} {_pick(WEARS, rng)} {listed(worn)}"


def _two_sentences(subject: str, worn: list[str], carried: list[str], rng: np.random.Generator) -> str:
    if not (worn and carried):
        return _plain(subject, worn, carried, rng)
    return f"{subject} {_pick(WEARS, rng)} {listed(worn)}. This person {_pick(CARRIES, rng)} {listed(carried)}"


FORMS: tuple[Callable[..., str], ...] = (_plain, _in, _carrying_first, _two_sentences)


def _pick(options: Sequence[str], rng: np.random.Generator) -> str:
    return options[int(rng.integers(len(options)))]
