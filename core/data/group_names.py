"""What the names of files say of images that belong together: sub-folders, parts of file names, names of copies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from ..errors import ConfigError, shortened
from .group_words import is_split_word, kind_of_column, says_subject

FOLDER, STEM = "folder", "stem:"
LONGEST_PATTERN, SECONDS = 200, 10
MATCHING = """\
import json, re, sys
pattern, names = json.load(sys.stdin)
found = map(re.compile(pattern).search, names)
print(json.dumps([match and "/".join(filter(None, match.groups() or [match[0]])) for match in found]))
"""
"""Run as a process of its own, since a pattern may take longer than anybody waits."""
COPY_ENDING = re.compile(
    r"(?:\.rf\.[0-9a-f]{8,}|[\W_](?:aug|augmented|augmentation|h?flip|vflip|flipped|mirror|mirrored|rot|rotated|copy)"
    r"[\W_]?\d*|\s?\(\d+\))+$",
    re.IGNORECASE,
)
"""Of names that augmentation, an upload or a download gives to copies."""
PART = re.compile(r"#\w+$")
"""Which sample of a file an image is."""
NUMBERED = re.compile(r"\(\d+\)$")
LEAD = re.compile(r"[^\W\d_]+\d+(?=[^\W\d_])")
"""A word and a number with which a name begins, before another word."""
MOST, MOST_WORDS = 0.8, 4
"""Share of the names that must be called alike, and words of a name that are looked at."""
MOST_COPIES = 32
"""Images of one name beyond which the ending counts them and says nothing of copies."""


@dataclass(frozen=True)
class GroupNames:
    """Groups of images that the names of their files tell.

    Args:
        named: "folder" for the sub-folder below the class folder, up to the first part that is called as a subject
            ("ward 3/pat001/visit 2"); "stem:REGEX" for what the pattern finds in the file's name without its ending,
            by its groups where it has some.
    """

    named: str

    kind_of_column = staticmethod(kind_of_column)
    """As the function of this name: what kind of group a column of that name tells."""

    @staticmethod
    def are_named_by(named: str) -> bool:
        """Whether the option says that the names of files tell the groups: "folder", or "stem:REGEX"."""
        return named == FOLDER or named.startswith(STEM)

    def values(self, names: Sequence[str], classes: Sequence[Collection[Hashable]]) -> list[str | None]:
        """What the name of each image says of its group, None where it says nothing.

        Args:
            names: N paths relative to the set's folder, "/" between parts; "#2" tells samples of one file apart.
            classes: of each image.

        Raises:
            ConfigError: the pattern is none, is too long or takes too long, or no two images are in one group.
        """
        by_folder = self.named == FOLDER
        values = sub_folders(names, classes) if by_folder else _matched_apart(self.named.removeprefix(STEM), names)
        if max(Counter(value for value in values if value).values(), default=0) < 2:
            where = "no sub-folder of a class folder" if by_folder else "no part of the file names that it finds"
            words = f"{where} is of two images; give auto, none, or another value"
            raise ConfigError(f"--group-column {self.named}: {words}")
        return values


def sub_folders(names: Sequence[str], classes: Sequence[Collection[Hashable]]) -> list[str | None]:
    """The folder of each image below its class and its split, None where it lies in these; as `GroupNames.values`."""
    paths = [[part for part in name.split("/")[:-1] if not is_split_word(part)] for name in names]
    paths = _without_common(paths)
    if _are_classes(paths, classes):
        paths = _without_common([path[1:] for path in paths])
    cut = (next((n for n, part in enumerate(path, 1) if says_subject(part)), len(path)) for path in paths)
    return ["/".join(path[:end]) or None for path, end in zip(paths, cut, strict=True)]


def _without_common(paths: list[list[str]]) -> list[list[str]]:
    """Without the folders with which all begin."""
    shared = len(os.path.commonprefix(paths))  # noqa: RUF071 (of lists)
    return [path[shared:] for path in paths]


def _are_classes(paths: Sequence[Sequence[str]], classes: Sequence[Collection[Hashable]]) -> bool:
    """Whether the first folder says the class, as its name does where there are class folders."""
    seen: dict[str, set[Hashable]] = defaultdict(set)
    for path, some in zip(paths, classes, strict=True):
        if path:
            seen[path[0]].add(tuple(some))
    held = [next(iter(some)) for some in seen.values() if len(some) == 1]
    return 0 < len(seen) == len(held) == len(set(held))


def stem_of(name: str) -> str:
    """The name of a file without its folders and its ending."""
    file = name.rpartition("/")[2]
    file = PART.sub("", file) if "#" in file else file
    return file.rpartition(".")[0] or file


def values_by_pattern(pattern: str, stems: Sequence[str]) -> list[str | None]:
    """What one of the patterns of `parts_of_stems` finds in names of files (`stem_of`), None where it finds nothing."""
    found = map(re.compile(pattern).search, stems)
    return [match and match[1] for match in found]


def _matched_apart(pattern: str, names: Sequence[str]) -> list[str | None]:
    """The same for a pattern of a user's, in a process that is given up after some seconds."""
    shown = shortened(pattern)
    if len(pattern) > LONGEST_PATTERN:
        raise ConfigError(f"--group-column stem:{shown}: longer than {LONGEST_PATTERN} characters; give a shorter one")
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        cure = r"give one like stem:^(\d+)"
        raise ConfigError(f"--group-column stem:{shown}: not a regular expression ({error}); {cure}") from None
    command, content = [sys.executable, "-I", "-c", MATCHING], json.dumps([pattern, list(map(stem_of, names))])
    try:
        done = subprocess.run(command, input=content, capture_output=True, timeout=SECONDS, text=True, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        cure = "give one without repeats inside repeats"
        raise ConfigError(f"--group-column stem:{shown}: takes over {SECONDS} seconds on these names; {cure}") from None
    return [value or None for value in json.loads(done.stdout)]


def copies_by_name(names: Sequence[str]) -> list[str | None]:
    """What images that are copies by their names have in common: "x" for x.jpg, x_flip.jpg, x (1).jpg and
    x_jpg.rf.0123456789abcdef.jpg; None for the others.

    A number in brackets alone makes a copy only of a file that is there without it.
    """
    stems = list(map(stem_of, names))
    found: list[str | None] = [None] * len(names)
    ending = [COPY_ENDING.search(stem) for stem in stems]
    if not any(ending):
        return found
    folders = [name.rpartition("/")[0] for name in names]
    there: dict[tuple[str, str], list[int]] = defaultdict(list)
    alike: dict[tuple[str, str], list[int]] = defaultdict(list)
    for place, (folder, stem, end) in enumerate(zip(folders, stems, ending, strict=True)):
        base = stem if end is None else stem[: end.start()]
        if base:
            (there if end is None else alike)[folder, base].append(place)
    for base, places in alike.items():
        whole = there.get(base, [])
        places = [place for place in places if whole or not NUMBERED.search(stems[place])] + whole
        if 1 < len(places) <= MOST_COPIES:
            for place in places:
                found[place] = "/".join(base)
    return found


def parts_of_stems(stems: Sequence[str]) -> list[tuple[str, bool]]:
    """Patterns for `stem:REGEX` that find parts of names made of words and numbers, and whether the part is called as a
    subject in most names: the beginning up to each separator, each word alone, and the first word with its number.
    """
    words = [re.findall(r"[^\W_]+", stem) for stem in stems]
    depth = sorted(map(len, words))[len(words) // 10] if words else 0  # nine of ten names have as many words
    columns = enumerate(zip(*words))
    first = next((n for n, column in columns if not all(map(is_split_word, column))), depth)
    spans = [(first, end) for end in range(first + 1, min(depth, first + MOST_WORDS) + 1)]
    spans += [(start, start + 1) for start in range(first + 1, min(depth, first + MOST_WORDS))]
    found = [(_pattern(*span), _called(words, *span)) for span in spans]
    lead = [match[0] for stem in stems if (match := LEAD.match(stem))]
    if len(lead) > MOST * len(stems):
        found.append((r"^([^\W\d_]+\d+)", sum(map(says_subject, lead)) > MOST * len(stems)))
    return found


def _pattern(start: int, end: int) -> str:
    before = rf"(?:[^\W_]+[\W_]+){{{start}}}" if start else ""
    more = rf"(?:[\W_]+[^\W_]+){{{end - start - 1}}}" if end - start > 1 else ""
    return rf"^[\W_]*{before}([^\W_]+{more})"


def _called(words: Sequence[Sequence[str]], start: int, end: int) -> bool:
    """Whether the last word of the span is a subject's, by itself or with the word before it."""

    def subject(some: Sequence[str]) -> bool:
        last = some[end - 1] if len(some) >= end else ""
        return says_subject(last) or (end > 1 and bool(last) and says_subject(f"{some[end - 2]}{last}"))

    return sum(map(subject, words)) > MOST * len(words)
