"""What lists say of clips, whatever their form: name, times, labels, captions, split, what belongs together; and the
set that is made of it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...core.contracts import Captions, DomainData, Label, Labels
from ...core.data import Format, ItemCollector, Layout, group_of, split_named
from ...core.errors import DataError, did_you_mean, shortened
from .clip_files import ClipFiles

CLOCK = re.compile(r"^(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)$")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
MOST_SECONDS = 10**7
SPLITS = {**Layout.SPLITS, "publictect": "test"}
"""The last is how LSMDC's file of its 1,000 test clips is called."""


@dataclass(frozen=True)
class Annotation:
    """One line of a list.

    Args:
        name: of the video, as listed.
        place: of the line, for messages.
        labels: names of its classes, usually one.
        captions: what is said of it.
        start, end: seconds of the stretch that is meant; None for the beginning, and for the end.
        split: "train", "val", "test" or "".
        group: what belongs together besides the video; a person's name goes no further than here.
        numbers: further ones, by name, that losses may ask for.
        names: other names of the video, tried in order.
        cut_names: names of files that hold the stretch alone.
    """

    name: str
    place: str
    labels: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    split: str = ""
    group: str | None = None
    numbers: Mapping[str, Any] | None = None
    names: tuple[str, ...] = ()
    cut_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Narrated(Captions):
    """Captions of a clip with numbers that losses may ask for: the verbs and nouns of narrations.

    Args:
        facts: name -> number, or list of numbers.
    """

    facts: Mapping[str, Any] = field(default_factory=dict)

    def numbers(self) -> Mapping[str, Any]:
        return self.facts


def data_of(
    annotations: Sequence[Annotation],
    files: ClipFiles,
    formats: Sequence[Format],
    source: Path,
    *,
    captions: bool,
    class_names: Sequence[str] | None = None,
    name: str = "",
    notes: Iterable[str] = (),
    lacking_is_usual: bool = False,
    published: str | None = None,
) -> DomainData:
    """The set that a list describes.

    Args:
        annotations: its lines; those of one stretch of one video become one clip.
        files: where the videos are.
        formats: how they are read.
        source: the list, for messages.
        captions: whether captions are wanted, and not classes.
        class_names: in order; by default all that occur, sorted.
        lacking_is_usual: whether such lists name videos that nobody has any more: those are counted in a note.
        published: the set's usual name.

    Raises:
        DataError: no line says what is wanted, or none of the videos is there.
    """
    wanted = [a for a in annotations if (a.captions if captions else a.labels)]
    if not wanted:
        raise DataError(f"{source}: {_other_task(annotations, captions)}")
    empty = [a.place for a in annotations if not (a.captions if captions else a.labels)]
    classes = () if captions else tuple(class_names or sorted({label for a in wanted for label in a.labels}))
    collector, lacking, seen = ItemCollector(), Counter(), set()
    make = _targets(wanted, classes, captions)
    for stretch in _stretches(wanted):
        first = stretch[0]
        file, times = _file_of(first, files)
        if file is None:
            lacking[first.name] += 1
            continue
        id_ = item_id(first)
        if id_ in seen:
            continue
        seen.add(id_)
        group = None if first.group is None else group_of(first.group)
        fields = {"target": make(stretch), "split": first.split, "decode": times}
        collector.add_file(file, id_, formats, **fields, **({"group": group} if group else {}))
    said = list(notes)
    if empty:
        said.append(f"Lines without a {'caption' if captions else 'label'}, left out: {len(empty)}, first {empty[0]}.")
    if lacking:
        missing = f"{next(iter(lacking))}: no such video below {files.roots[0]}"
        if not collector.items and not collector.skipped:
            what = "captions" if captions else "labels"
            raise DataError(f"{source}: {what} without clips: {missing}; name their folder by --set data.root=FOLDER")
        if lacking_is_usual:
            count, first_name = sum(lacking.values()), next(iter(lacking))
            said.append(f"Clips that the list names but that are missing: {count}, the first {first_name}.")
        else:
            collector.skipped += [(video, f"no such video below {files.roots[0]}") for video in lacking]
    if not collector.items:
        video, reason = collector.skipped[0]
        raise DataError(f"{source}: none of its clips can be read ({video}: {reason}); correct them")
    several = any(isinstance(item.target, Labels) for item in collector.items)
    kind = "captions" if captions else "multilabel" if several else "clips"
    facts = {"kind": kind, "name": name or source.stem, "notes": said, "published": published}
    skipped = [*collector.skipped, *files.skipped]
    return collector.data_set(source, formats, map(as_words, classes), skipped=skipped, **facts)


def seconds(value: Any, place: str) -> float | None:
    """A time as a number of seconds: 12.5, "12.5", "0:12.5", "00:00:12,5"; None for none.

    Raises:
        DataError: no time.
    """
    text = "" if value is None else str(value).strip()
    if text in ("", "nan", "None", "-1"):
        return None
    try:
        if match := CLOCK.match(text):
            hours, minutes, rest = match.groups()
            number = 3600 * int(hours or 0) + 60 * int(minutes) + float(rest.replace(",", "."))
        else:
            number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < MOST_SECONDS:
        raise DataError(f"{place}: '{shortened(text)}' is not a time; give seconds, or H:M:S")
    return number


def usual_split(text: str, place: str) -> str:
    """ "train", "val" or "test" from any usual name of it; errors as of `split_named`."""
    text = str(text or "").strip().lower()
    return split_named("val" if text.startswith("val") else text, place)


def split_in(stem: str) -> str:
    """The split that a file's name tells, as "kinetics_train" and "EPIC_100_validation" do, or ""."""
    parts = re.split(r"[^a-z]+", stem.lower())
    return next((SPLITS[part] for part in parts if part in SPLITS), "")


def as_words(name: str) -> str:
    """ "apply eye makeup" of "ApplyEyeMakeup", and "brush hair" of "brush_hair"; names in words stay."""
    if " " in name:
        return name
    parted = CAMEL.sub(" ", name)
    return (parted.lower() if parted != name else name).replace("_", " ")


def _file_of(annotation: Annotation, files: ClipFiles) -> tuple[Path | None, dict[str, float]]:
    """The video, and the times of the stretch where it holds more than that."""
    for name in (annotation.name, *annotation.names):
        if (file := files.find(name, annotation.place)) is not None:
            times = {"start": annotation.start, "end": annotation.end}
            return file, {key: value for key, value in times.items() if value is not None}
    cut = (files.find(name, annotation.place) for name in annotation.cut_names)
    return next((file for file in cut if file is not None), None), {}


def item_id(annotation: Annotation) -> str:
    """What the clip of a line is called."""
    if annotation.start is None and annotation.end is None:
        return annotation.name
    start, end = (None if each is None else f"{round(each, 3):.10g}" for each in (annotation.start, annotation.end))
    return f"{annotation.name}#{start or 0}-{end or ''}"


def _stretches(annotations: Sequence[Annotation]) -> list[list[Annotation]]:
    """Lines of one stretch of one video together, in the order of first mention."""
    together: dict[str, list[Annotation]] = {}
    for each in annotations:
        together.setdefault(item_id(each), []).append(each)
    return list(together.values())


def _targets(wanted: Sequence[Annotation], classes: Sequence[str], captions: bool) -> Callable:
    index = {name: place for place, name in enumerate(classes)}

    def of_captions(stretch: Sequence[Annotation]) -> Captions:
        texts = tuple(dict.fromkeys(text for each in stretch for text in each.captions))
        return Captions(texts) if stretch[0].numbers is None else Narrated(texts, facts=stretch[0].numbers)

    def of_labels(stretch: Sequence[Annotation]) -> Label | Labels:
        names = dict.fromkeys(name for each in stretch for name in each.labels)
        for name in names:
            if name not in index:
                known = did_you_mean(name, classes)
                raise DataError(f"{stretch[0].place}: label '{shortened(name)}' is not in the class list; {known}")
        if not several:
            return Label(index[next(iter(names))], stretch[0].numbers)
        return Labels(tuple(float(name in names) for name in classes))

    if captions:
        return of_captions
    counts = [len({name for each in stretch for name in each.labels}) for stretch in _stretches(wanted)]
    several = max(counts) > 1
    return of_labels


def _other_task(annotations: Sequence[Annotation], captions: bool) -> str:
    if captions and any(a.labels for a in annotations):
        return "holds classes but no captions; omit --task retrieval, or give captions"
    if not captions and any(a.captions for a in annotations):
        return "holds captions but no classes; give --task retrieval"
    return "no line has a label or a caption; give one in each"
