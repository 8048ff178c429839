"""What a phrase asks an image: the finding that it is about, and whether it says that the finding is not there.

A phrase that denies a finding is looked for as the finding: words never decide what an image shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ....core.errors import CapabilityError
from ....core.prompts import fill

DENIED = "denied by the text"
NO_FINDING = "No Finding"


@dataclass(frozen=True)
class Sought:
    """What is looked for on behalf of a phrase.

    Args:
        phrase: as it was given.
        wordings: texts whose mean is compared with the patches: the phrase, or of a denied finding texts that name it.
        finding: that it is about, whose probability is the image's; the phrase itself where it names none that is
            known.
        denied: whether the phrase says that the finding is not there.
    """

    phrase: str
    wordings: tuple[str, ...]
    finding: str
    denied: bool = False

    @classmethod
    def denying(cls, phrase: str, finding: str, templates: Sequence[str]) -> Sought:
        """Of a phrase that says that a finding is not there."""
        return cls(phrase, tuple(fill(templates, finding.lower())), finding, denied=True)

    @property
    def said(self) -> str:
        """ "denied by the text", or ""."""
        return DENIED if self.denied else ""


def sought_by(phrases: Iterable[str], templates: Sequence[str], read: bool = True) -> dict[str, list[Sought]]:
    """Phrase -> what is looked for: one thing, of a phrase that denies several findings each of them, and nothing of
    one that says that there is no finding at all.

    Args:
        templates: texts with `{}` that say that a finding is there.
        read: whether it is read from the phrases what they deny (extra `reports`); else each is looked for as it is.

    Raises:
        CapabilityError: the packages that read phrases are not installed.
    """
    phrases = list(dict.fromkeys(phrases))
    if not read:
        return {text: [Sought(text, (text,), text)] for text in phrases}
    from ..reports.extraction import FindingExtractor
    from ..reports.records import ABSENT, RESOLVED

    try:
        extractor = FindingExtractor()
    except CapabilityError as error:
        raise CapabilityError(f"{error}, or take all phrases as they are: --set read_denials=false") from None
    sought: dict[str, list[Sought]] = {}
    for text, statements in zip(phrases, extractor.findings((text, text) for text in phrases), strict=True):
        stated = list(dict.fromkeys(each.finding for each in statements))
        affirmed = [each.finding for each in statements if each.state not in (ABSENT, RESOLVED)]
        if stated and set(stated) <= {NO_FINDING}:
            sought[text] = []
        elif stated and not [name for name in affirmed if name != NO_FINDING]:
            names = [name for name in stated if name != NO_FINDING]
            sought[text] = [Sought.denying(text, name, templates) for name in names]
        else:
            sought[text] = [Sought(text, (text,), next((name for name in affirmed if name != NO_FINDING), text))]
    return sought


def sought_about(
    pairs: Iterable[tuple[str, str]], templates: Sequence[str], read: bool = True
) -> dict[tuple[str, str], Sought]:
    """(phrase, the finding that it is known to be about) -> what is looked for; without pairs whose phrase says that
    there is no finding at all. Arguments and errors as of `sought_by`."""
    pairs = list(dict.fromkeys(pairs))
    by_phrase = sought_by([text for text, _ in pairs], templates, read)
    sought: dict[tuple[str, str], Sought] = {}
    for text, finding in pairs:
        if by_phrase[text]:
            denied = by_phrase[text][0].denied
            sought[text, finding] = (
                Sought.denying(text, finding, templates) if denied else Sought(text, (text,), finding)
            )
    return sought
