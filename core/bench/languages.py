"""What sets in several languages share: scores of each language, means over languages, published results from files.

Files of published results are those that Babel-ImageNet's evaluation writes: `{"meta": {"model": NAME}, "results":
[{"lang": "DE", "prompt": "label", "num_classes": 738, "accuracy": 0.4}]}`, or of retrieval `{"lang": "de", "t2i_r@1":
0.4, ...}`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..contracts.bench import BenchScore, BenchSet, BenchTowers
from ..contracts.options import option
from ..errors import ConfigError, DataError, did_you_mean
from ..runtime.reading import read_json

LISTED = 8
"""Names in a note at most."""
RESULTS = "give a results file of Babel-ImageNet's evaluation: {meta: {model}, results: [{lang, ...}]}"
USUAL = {"jp": "ja"}
"""Code of a set -> the language's usual one."""


@dataclass(eq=False, kw_only=True)
class LanguageSet(BenchSet):
    """Base of sets that ask one tower the same in several languages: the rows of each, then their means.

    A mean counts each language alike; its interval is over images, which are the same in all languages.
    """

    languages: tuple[str, ...] | None = option(None, "codes of the languages that are scored; by default all")
    published: str | None = option(None, "results JSON of the released form, shown beside", metavar="FILE")

    _notes: list[str] = field(default_factory=list, init=False, repr=False)

    @abstractmethod
    def scores_of_languages(self, towers: BenchTowers) -> Mapping[str, list[tuple[BenchScore, Tensor]]]:
        """Language -> its scores, each with the image of each of its answers, (N,) int64."""

    @abstractmethod
    def published_values(self, entry: Mapping[str, Any], language: str) -> Mapping[str, float]:
        """Measure -> value of one entry of a results file; none where it is of another version or other prompts."""

    @property
    def notes(self) -> list[str]:
        return list(self._notes)

    def chosen(self, there: Sequence[str], spelled: Callable[[str], str]) -> list[str]:
        """The languages to score.

        Args:
            there: of the set.
            spelled: a code as the set has it.

        Raises:
            ConfigError: it lacks one.
        """
        asked = list(there) if self.languages is None else [spelled(code.strip()) for code in self.languages]
        for code in asked:
            if code not in there:
                near = did_you_mean(code, there)
                raise ConfigError(f"--set {self.kind}.languages={code}: {self.title} has no such language; {near}")
        return list(dict.fromkeys(asked))

    def score(self, towers: BenchTowers) -> list[BenchScore]:
        of_language = dict(self.scores_of_languages(towers))
        if not of_language:
            raise DataError(f"{self.title}: no language can be scored")
        source, published_of = ("", {}) if self.published is None else self._read_published(Path(self.published))
        made = []
        for code, scores in of_language.items():
            for score, _ in scores:
                value = published_of.get((code, score.measure))
                made.append(score if value is None else score.with_published({source: value}))
        for mean in means_over(of_language):
            values = [published_of.get((code, mean.measure)) for code in of_language]
            published = [value for value in values if value is not None]
            if published and len(published) == len(values):
                mean = mean.with_published({source: sum(published) / len(published)})
            made.append(mean)
        return made

    def _read_published(self, file: Path) -> tuple[str, dict[tuple[str, str], float]]:
        content = read_json(file, RESULTS)
        entries = content.get("results") if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(each, dict) and "lang" in each for each in entries):
            raise DataError(f"{file}: holds no results by language; {RESULTS}")
        meta = content.get("meta")
        model = meta.get("model", "an unnamed model") if isinstance(meta, dict) else "an unnamed model"
        values = {}
        for entry in entries:
            code = self.usual(str(entry["lang"]))
            for measure, value in self.published_values(entry, code).items():
                if not isinstance(value, (int, float)) or not 0 <= value <= 1:
                    raise DataError(f"{file}: {measure} of '{entry['lang']}' is no share in 0..1; {RESULTS}")
                values[code, measure] = float(value)
        if not values:
            raise DataError(
                f"{file}: has no result of this set's languages and prompts; omit --set {self.kind}.published"
            )
        return f"{model}, in {file.name}", values

    def usual(self, code: str) -> str:
        """A language's code as it stands in the table."""
        return USUAL.get(code, code)


def means_over(of_language: Mapping[str, list[tuple[BenchScore, Tensor]]]) -> list[BenchScore]:
    """Means over the languages that have a measure, in which each counts alike; none over a single one."""
    by_measure: dict[str, list[tuple[BenchScore, Tensor]]] = {}
    for scores in of_language.values():
        for score, image in scores:
            by_measure.setdefault(score.measure, []).append((score, image))
    made = []
    for measure, scored in by_measure.items():
        rights = [score.right for score, _ in scored if score.right is not None]
        if len(rights) < 2 or len(rights) < len(of_language):
            continue
        language = torch.repeat_interleave(torch.arange(len(rights)), torch.tensor([len(each) for each in rights]))
        guessed = [score.guessing for score, _ in scored if score.guessing is not None]
        guessing = sum(guessed) / len(guessed) if len(guessed) == len(rights) else None
        images = torch.cat([image for _, image in scored])
        part = f"mean of {len(rights)}"
        made.append(
            BenchScore.share(measure, torch.cat(rights), units=images, labels=language, guessing=guessing, part=part)
        )
    return made


def names_in_note(names: Sequence[str]) -> str:
    """Some names, for a note."""
    return ", ".join(names[:LISTED]) + (", ..." if len(names) > LISTED else "")
