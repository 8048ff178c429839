"""Findings in the sentences of a report, by phrases and by NegEx with termsets for more than denial.

Chapman et al., A Simple Algorithm for Identifying Negated Findings and Diseases in Discharge Summaries, 2001, doi
10.1006/jbin.2001.1029: a term before or after a finding, in the same clause, says how it is meant. negspacy implements
it for one kind of terms; here it runs once for each termset of `termsets.json`. The first of them that applies decides,
and what cannot be excluded comes before what is denied, as in NegBio (Peng et al., 2018, arXiv 1712.05898).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....core.errors import CapabilityError
from .records import ABSENT, PRESENT, UNCERTAIN, ReportFinding
from .sections import OF_THE_IMAGE, sections
from .vocabulary import GAP, FindingPhrase, phrases

TERMSETS = json.loads(Path(__file__).with_name("termsets.json").read_text(encoding="utf-8"))
NEGSPACY = {
    "preceding": "preceding_negations",
    "following": "following_negations",
    "pseudo": "pseudo_negations",
}
SPANS = "findings"
NOT_IN_A_GAP = (
    *("but", "while", "with", "although", "however", ";", ".", ":"),
    *("enlarged", "large", "widened", "increased", "normal", "unremarkable"),
)
_BLOCK_END = re.compile(r"\n\s*\n|\n(?=\s*(?:\d{1,2}[.)]|[-*•])\s)")
"""A blank line, or a new entry of a list: there a sentence ends whether it has a full stop or not."""


class FindingExtractor:
    """Finds what reports say.

    Args:
        listed: the phrases that name findings; by default the usual ones.

    Raises:
        CapabilityError: spacy or negspacy is not installed.
    """

    def __init__(self, listed: Sequence[FindingPhrase] | None = None):
        for package in ("spacy", "negspacy"):
            if find_spec(package) is None:
                needs = f"reading findings from reports needs the package '{package}'"
                raise CapabilityError(f"{needs}; install it with: pip install 'vladapt[reports]'")
        self.phrases = phrases() if listed is None else listed

    def findings(self, reports: Iterable[tuple[str, str]]) -> Iterator[list[ReportFinding]]:
        """The findings of each report, in the order of its text.

        Args:
            reports: (study, text).
        """
        for study, text in reports:
            blocks = [block for part in sections(text) if part.name in OF_THE_IMAGE for block in _blocks(text, part)]
            yield [found for block in blocks for found in self._of_block(study, text, *block)]

    def _of_block(self, study: str, text: str, start: int, end: int) -> Iterator[ReportFinding]:
        """Runs of space become one, since the terms are matched word by word; places are those of the report."""
        words = list(re.finditer(r"\S+", text[start:end]))
        places = [start + word.start() + offset for word in words for offset in range(len(word[0]) + 1)]
        doc = _english().make_doc(" ".join(word[0] for word in words))
        for step in self._steps:
            doc = step(doc)
        for span in sorted(doc.spans[SPANS], key=lambda each: each.start):
            first, last = places[span.start_char], places[span.end_char - 1] + 1
            sentence = span.sent.text.strip()
            yield ReportFinding(study, span.label_, self._state(span), first, last, sentence=sentence)

    def _state(self, span: Any) -> str:
        states = (each["state"] for each in TERMSETS["termsets"] if span._.get(_extension(each["name"])))
        state = next(states, PRESENT)
        if span.id_ == "normal":  # "is normal" denies the finding; where that is denied or open, the finding is open
            return UNCERTAIN if state in (ABSENT, UNCERTAIN) else ABSENT
        return state

    @cached_property
    def _steps(self) -> list[Any]:
        """spaCy's sentences, our phrases, and NegEx by each termset, each of which adds to a document."""
        from negspacy.negation import Negex
        from spacy.pipeline import Sentencizer

        nlp = _english()
        steps = [Sentencizer(punct_chars=[".", "!", "?", ";"]), self._mark(nlp)]
        for each in TERMSETS["termsets"]:
            terms = {theirs: each[ours] for ours, theirs in NEGSPACY.items()}
            terms["termination"] = [*TERMSETS["clauses"], *each["termination"]]
            name = _extension(each["name"])
            steps.append(Negex(nlp, name, terms, extension_name=name, span_keys=[SPANS]))
        return steps

    def _mark(self, nlp: Any) -> Any:
        """What puts the places of the phrases into `doc.spans`."""
        from spacy.matcher import Matcher
        from spacy.tokens import Span

        gap = {"LOWER": {"NOT_IN": list(NOT_IN_A_GAP)}, "OP": "{0,6}"}
        matcher = Matcher(nlp.vocab)
        tails = {}
        for number, phrase in enumerate(self.phrases):
            words = (nlp.make_doc(part.strip()) for part in phrase.text.split(GAP))
            parts = [[{"LOWER": token.lower_} for token in some] for some in words]
            tails[number] = len(parts[-1])
            matcher.add(str(number), [[token for part in parts for token in (*part, gap)][:-1]], greedy="LONGEST")

        def mark(doc: Any) -> Any:
            spans = set()
            for key, _, end in matcher(doc):
                number = int(nlp.vocab.strings[key])
                phrase = self.phrases[number]
                kind = "normal" if phrase.normal else ""
                spans.add(Span(doc, end - tails[number], end, label=phrase.finding, span_id=kind))
            doc.spans[SPANS] = [
                span for span in spans if span.label_ and not any(_within(span, other) for other in spans)
            ]
            return doc

        return mark


@cache
def _english() -> Any:
    """spaCy's tokens of English, without a model."""
    import spacy

    return spacy.blank("en")


def _within(span: Any, other: Any) -> bool:
    """Whether another is longer and covers it: "effusion" in "pericardial effusion"."""
    return other.start <= span.start and span.end <= other.end and len(other) > len(span)


def _extension(name: str) -> str:
    """What negspacy calls the mark of a termset on spans."""
    return f"vladapt_{name.replace(' ', '_')}"


def _blocks(text: str, part: Any) -> Iterator[tuple[int, int]]:
    """(start, end) of what a section says without a break."""
    start = part.start
    for match in _BLOCK_END.finditer(text, part.start, part.end):
        yield start, match.start()
        start = match.end()
    yield start, part.end
