"""Sentences with their times in long videos: as they are read, and as they are searched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ....core.contracts import Backbone, Domain, DomainData, Item
from ....core.data import FileHashes, assign_splits, check_tolerated
from ....core.errors import DataError
from ....core.tasks import DomainPairs, RetrievalData
from ..clips import check_times
from ..long_videos import duration_of, whole_video

TASK = "moments"
NO_TIMES = "without start and end, which are needed; give both, in seconds"


@dataclass(frozen=True)
class MomentQuery:
    """A sentence about one video.

    Args:
        video: which of the videos.
        text: the sentence.
        spans: (start, end) seconds of all its moments there.
        id: of the first of them.
    """

    video: int
    text: str
    spans: tuple[tuple[float, float], ...]
    id: str


def divided_moments(data: DomainData, domain: Domain, split_seed: int, *, whole: bool = False) -> RetrievalData:
    """The sentences of a data set, each video in one split. Pairs are moments, as clips, with their sentences.

    Args:
        whole: data without splits are all test: where nothing is trained, and of other data that a run is scored on.

    Raises:
        DataError: nothing usable there, or no sentence has times. ConfigError: an option does not apply.
    """
    data = _timed(data)
    check_tolerated(data)
    if whole and not any(item.split for item in data.items):
        data = data.with_items([item.with_(split="test") for item in data.items])
    elif len({_key(whole_video(item)) for item in data.items}) < 2:
        raise DataError(
            f"{data.name}: one video cannot be used for both training and testing; give more, or --adapter zero-shot"
        )
    else:
        data = assign_splits(data, seed=split_seed, hashes=FileHashes())

    def transform(backbone: Backbone, train: bool) -> Callable:
        return domain.of(data).transforms(backbone, train, TASK)

    said = list(data.skipped), list(data.notes)
    return RetrievalData(DomainPairs.of(data), data.name, data.licence, transform, *said, dict(data.reading))


def _timed(data: DomainData) -> DomainData:
    """The sentences that have a start and an end in their video; the others are listed in `skipped`.

    Raises:
        DataError: none has a start and an end.
    """
    without = [item for item in data.items if item.decode.get("start") is None or item.decode.get("end") is None]
    if without and len(without) == len(data.items):
        raise DataError(f"{data.name}: {without[0].id} and all other sentences are {NO_TIMES}")
    reasons = {item.id: NO_TIMES for item in without}
    reasons |= {item.id: why for item in data.items if item.id not in reasons and (why := _why_outside(item))}
    kept = [item for item in data.items if item.id not in reasons]
    return replace(data, items=kept, skipped=[*data.skipped, *reasons.items()])


def queries_of(items: Sequence[Item]) -> tuple[list[Item], list[MomentQuery]]:
    """The videos of some moments, and their sentences. One that is said of several moments of a video is one query."""
    videos: dict[str, tuple[int, Item]] = {}
    found: dict[tuple[int, str], list[Item]] = {}
    for item in items:
        video = whole_video(item)
        place, _ = videos.setdefault(_key(video), (len(videos), video))
        for text in item.captions():
            found.setdefault((place, text), []).append(item)
    queries = [
        MomentQuery(place, text, tuple((float(i.decode["start"]), float(i.decode["end"])) for i in of), of[0].id)
        for (place, text), of in found.items()
    ]
    return [video for _, video in videos.values()], queries


def _why_outside(item: Item) -> str:
    """Why the times of a sentence cannot be used, or ""."""
    try:
        check_times(item.source, duration_of(item), float(item.decode["start"]), float(item.decode["end"]))
    except DataError as error:
        return str(error)
    return ""


def _key(video: Item) -> str:
    return repr((str(video.source), sorted(video.decode.items())))
