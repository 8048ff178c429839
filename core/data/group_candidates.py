"""Which images belong together where no table says so: candidates by structure, each judged by the pixels.

Candidates are sub-folders, parts of file names and columns that repeat. One that is called as a subject ("pat001",
"P-003", "case 7") and whose members look alike groups the images. One whose members look alike and that is called
otherwise does not: the user is asked. Copies by name ("x_flip", "x (1)", "x.rf.0123abcd") always belong together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..contracts.groups import OpenGroups, PossibleGroups
from ..contracts.items import DomainData
from .file_hashes import FileHashes
from .group_columns import NONE, hashed, quoted
from .group_names import FOLDER, STEM, copies_by_name, parts_of_stems, stem_of, sub_folders, values_by_pattern
from .group_witness import PERMUTATIONS, witnessed
from .group_words import says_subject
from .splits import connected

SIGNIFICANT, SURE = 0.05, 0.0125
"""Levels of the test: of most candidates, and of numbers that run within each class, as those of most photos do: of
these one user in twenty would be warned of nothing. Twelve candidates can reach the second (`group_witness`)."""
LEAST_NAMED, LEAST_UNNAMED = 3, 8
"""Groups of a candidate that is called as a subject, and of one that is not: few are rather kinds than patients."""
LEAST_SHARE = 0.5
"""Of the images that lie in groups of two or more."""
MOST_CANDIDATES = 12
NOTHING = (
    "No sub-folder, file name or table groups the images by patient, subject or study, so each image is drawn by "
    "itself. If images belong together, say so with --group-column folder, stem:REGEX or a column."
)
MISLEADING = "then copies of one thing are on both sides of the split, and scores are too high"


@dataclass(frozen=True)
class Candidate:
    """What may say which images belong together.

    Args:
        option: as `--group-column` takes it.
        words: what it is, within a sentence.
        subject: whether it is called as a subject.
        groups: of each item its value, or None. It may be a name: it goes no further, but as a hash.
        level: p values below it say that its images look alike.
    """

    option: str
    words: str
    subject: bool
    groups: tuple[str | None, ...] = field(repr=False)
    level: float = SIGNIFICANT

    @property
    def count(self) -> int:
        """Of the groups."""
        return len(set(self.groups) - {None})

    def usable(self, classes: Sequence[tuple[int, ...]]) -> bool:
        """Whether most images are in groups of two or more, and these are no kinds or classes of images."""
        sizes = Counter(group for group in self.groups if group is not None)
        together = sum(size for size in sizes.values() if size > 1)
        least = LEAST_NAMED if self.subject else LEAST_UNNAMED
        if len(sizes) < least or together < LEAST_SHARE * len(self.groups):
            return False
        pairs = {(group, label) for group, label in zip(self.groups, classes, strict=True) if group is not None}
        return len(pairs) > len({label for _, label in pairs})

    def repeats(self, classes: Sequence[tuple[int, ...]]) -> bool:
        """Whether a group has two images of one class, but not all of it: those of "traffic-light-0" are no group."""
        pairs = Counter(pair for pair in zip(self.groups, classes, strict=True) if pair[0] is not None)
        of_class = Counter(classes)
        return any(1 < size < of_class[label] for (_, label), size in pairs.items())


def settle_groups(data: DomainData, hashes: FileHashes, kept: Mapping[str, Any] | None = None) -> DomainData:
    """The set with what belongs together settled, and notes that say what was taken.

    Args:
        data: N labelled items, of which the reader left it open.
        hashes: tell contents; what was found is kept beside them.
        kept: what a run says was found (`PossibleGroups.facts`), which is taken again; by default the pixels are asked.

    Raises:
        CacheError: the cache cannot be written.
    """
    still = data.open_groups or OpenGroups()
    names = [item.id for item in data.items]
    copies = copies_by_name(names)
    copied = len(copies) - copies.count(None) - len(set(copies) - {None})
    candidates = candidates_of(data, still.columns)
    if kept is not None:
        chosen, p_value = next((each for each in candidates if each.option == kept["option"]), None), kept["p_value"]
    else:
        p_values = witnessed(data, [each.groups for each in candidates], hashes) if candidates else []
        chosen, p_value = _chosen(candidates, p_values)
    groups, possible = _joined(copies) if copied else copies, PossibleGroups(NONE, 0, 1.0, False, {})
    if chosen is not None and p_value < chosen.level:
        joined = _joined(chosen.groups, copies)
        by_id = {name: group for name, group in zip(names, joined, strict=True) if group}
        possible = PossibleGroups(chosen.option, chosen.count, p_value, chosen.subject, by_id)
        groups = joined if chosen.subject else groups
    notes = [note for note in data.notes if not possible.used or note != still.note]
    if copied:
        notes.append(f"Images that are copies of others by their names: {copied}; copies are never in two splits.")
    notes.append(_said(chosen, p_value, len(candidates), still))
    pairs = zip(data.items, groups, strict=True)
    items = [item if item.group == group else item.with_(group=group) for item, group in pairs]
    return replace(data, items=items, notes=[n for n in notes if n], open_groups=None, possible_groups=possible)


def candidates_of(data: DomainData, columns: Mapping[str, Mapping[str, str]]) -> list[Candidate]:
    """What may group the images: each way to divide them once, those first that are called as a subject.

    Args:
        columns: of `OpenGroups`.
    """
    names, classes = [item.id for item in data.items], [item.classes() for item in data.items]
    folders, stems = sub_folders(names, classes), [stem_of(name) for name in names]
    called = sum(value is not None and says_subject(value.rpartition("/")[2]) for value in folders)
    found = [Candidate(FOLDER, "the sub-folder", called > LEAST_SHARE * len(names), tuple(folders))]
    for pattern, subject in parts_of_stems(stems):
        values = tuple(values_by_pattern(pattern, stems))
        found.append(Candidate(f"{STEM}{pattern}", "a part of the file name", subject, values))
    for title, of in columns.items():
        found.append(Candidate(quoted(title), f"column '{title}'", False, tuple(of.get(name) for name in names)))
    divisions: dict[Hashable, Candidate] = {}
    for candidate in sorted(found, key=lambda each: not each.subject):
        if candidate.usable(classes):
            first = {group: place for place, group in reversed(list(enumerate(candidate.groups)))}
            level = SIGNIFICANT if candidate.subject or candidate.repeats(classes) else SURE
            division = tuple(group and first[group] for group in candidate.groups)
            divisions.setdefault(division, replace(candidate, level=level))
    return list(divisions.values())[:MOST_CANDIDATES]


def _chosen(candidates: Sequence[Candidate], p_values: Sequence[float]) -> tuple[Candidate | None, float]:
    """The coarsest that is called as a subject and passes; else, of all that pass, the surest, of equals folders before
    file names and their beginnings before later parts; else the coarsest that is called as a subject, which does not
    pass."""
    tested = list(zip(candidates, p_values, strict=True))
    passing = [each for each in tested if each[1] < each[0].level]
    named = [each for each in passing if each[0].subject]
    if named or not passing:
        called = named or [each for each in tested if each[0].subject]
        return min(called, key=lambda each: each[0].count, default=(None, 1.0))
    return min(passing, key=lambda each: each[1])


def _said(chosen: Candidate | None, p_value: float, tested: int, still: OpenGroups) -> str:
    """
    Args:
        tested: candidates, for whose number the p value is adjusted.
    """
    if chosen is None or not (chosen.subject or p_value < chosen.level):
        return "" if still.note else NOTHING
    option = chosen.option if chosen.option == FOLDER or chosen.option.startswith('"') else f"'{chosen.option}'"
    if p_value >= chosen.level:
        return (
            f"Images are called as if {chosen.words} said a subject ({chosen.count} groups), but those of a group look "
            f"no more alike than others, so each is drawn by itself. --group-column {option} groups them."
        )
    least = tested / (1 + PERMUTATIONS)  # what permutations can tell at most
    p_words = f"p = {p_value:.2g}" if p_value > least else f"p < {least:.2g}"
    alike = f"{chosen.count} groups, whose images look alike ({p_words})"
    if chosen.subject:
        return (
            f"Images are grouped by {chosen.words}: {alike}, none of them divided between splits. --group-column none "
            "turns this off."
        )
    return (
        f"Warning: {chosen.words} makes {alike}, but does not say that a group is one patient or thing, so each image "
        f"is drawn by itself. If it is, {MISLEADING}: --group-column {option} groups them; --group-column none says "
        "that it is not."
    )


def _joined(*divisions: Sequence[str | None]) -> list[str | None]:
    """A hash for each image that belongs together with others by one of the divisions, also by way of others."""
    places: dict[tuple[int, str], list[int]] = {}
    for number, values in enumerate(divisions):
        for place, value in enumerate(values):
            if value is not None:
                places.setdefault((number, value), []).append(place)
    joined: list[str | None] = [None] * len(divisions[0])
    for part in connected(len(joined), places.values()):
        values = (f"{n} {some[place]}" for n, some in enumerate(divisions) for place in part if some[place])
        group = hashed(next(values, None))
        for place in part:
            joined[place] = group
    return joined
