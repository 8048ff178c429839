"""Images, clips above all, that have several sentences each, scored as text-video work scores them; for each direction
and rule of `core/metrics/sentence_ranks.py`, with a dual softmax where that is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from ...metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE
from ...metrics.sentence_ranks import BEST_SENTENCE, OWN_SENTENCES, TIES, Similarity, sentence_video_metrics
from ...runs.sections import Measure, TableSection
from ..tower_training.comparison import table_of

KEY, DUAL = "sentences", "dual_softmax"
TITLE = "Several sentences per image"
WAYS = {
    TEXT_TO_IMAGE: "text to image",
    f"{IMAGE_TO_TEXT}/{BEST_SENTENCE}": "image to text, by best sentence",
    f"{IMAGE_TO_TEXT}/{OWN_SENTENCES}": "image to text, by own sentences",
}
SIDES = {"zero_shot": "zero-shot", "adapted": "adapted"}
MEASURES = {
    "r1": Measure("R@1"),
    "r5": Measure("R@5"),
    "r10": Measure("R@10"),
    "median_rank": Measure("Median rank", kind="rank", falls=True),
    "mean_rank": Measure("Mean rank", kind="rank", falls=True),
}
MEDIAN = "the median is the lower one of the two in the middle"
RULES = (
    "By best sentence: an image ranks images, each by the best of its sentences (CLIP4Clip). By own sentences: it "
    "ranks all sentences, and its best own one counts (collaborative-experts)."
)
READS_ALL = "the dual softmax reads all queries before it answers one, so a single search does not reach these figures"


def sentence_scores(plain: Similarity, scale: float, dual_softmax: bool) -> dict[str, dict[str, float]]:
    """{way: {"r1", "r5", "r10", "median_rank", "mean_rank"}}, ways as in `WAYS`, and "dual_softmax/" and the way.

    Args:
        plain: of texts and images.
        scale: what similarities are multiplied by before a softmax.
    """
    directions = _of_ways({TEXT_TO_IMAGE: plain, IMAGE_TO_TEXT: plain})
    if dual_softmax:
        dual = {side: plain.dual_softmax(scale, side) for side in (TEXT_TO_IMAGE, IMAGE_TO_TEXT)}
        directions |= {f"{DUAL}/{way}": scores for way, scores in _of_ways(dual).items()}
    return directions


def _of_ways(similarity: Mapping[str, Similarity]) -> dict[str, dict[str, float]]:
    of_images = {}
    for rule in (BEST_SENTENCE, OWN_SENTENCES):
        metrics = sentence_video_metrics(similarity[IMAGE_TO_TEXT], rule=rule)
        of_images[f"{IMAGE_TO_TEXT}/{rule}"] = metrics[IMAGE_TO_TEXT]
    return {TEXT_TO_IMAGE: sentence_video_metrics(similarity[TEXT_TO_IMAGE])[TEXT_TO_IMAGE], **of_images}


def sentence_section(metrics: Mapping[str, Any]) -> TableSection | None:
    """For the report; None where no image has several texts, and no dual softmax was asked for."""
    if not (sides_scored := metrics.get(KEY)):
        return None
    rows = [(f"{way[0].upper()}{way[1:]}", *cells) for way, cells in _rows(sides_scored)]
    header = ("Direction", *(measure.name for measure in MEASURES.values()))
    return TableSection(TITLE, header, rows, f"As text-video work counts. {RULES} {_words(sides_scored)}.", sub=True)


def sentence_table(metrics: Mapping[str, Any]) -> Table | None:
    """For a terminal; None as of `sentence_section`."""
    if not (sides_scored := metrics.get(KEY)):
        return None
    columns = [f"{each.name} {each.arrow}" for each in MEASURES.values()]
    return table_of(TITLE, _words(sides_scored), {way: dict(zip(columns, cells)) for way, cells in _rows(sides_scored)})


def _rows(sides_scored: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    sides = [side for side in SIDES if sides_scored.get(side)]
    for prefix, words in (("", ""), (f"{DUAL}/", ", dual softmax")):
        for way, name in WAYS.items():
            for side in sides:
                if (scores := sides_scored[side].get(f"{prefix}{way}")) is not None:
                    side_words = f", {SIDES[side]}" if len(sides) > 1 else ""
                    yield f"{name}{words}{side_words}", [each.text(scores[key]) for key, each in MEASURES.items()]


def _words(sides_scored: Mapping[str, Any]) -> str:
    dual = any(way.startswith(DUAL) for way in sides_scored["adapted"])
    words = "; ".join((TIES, MEDIAN, *((READS_ALL,) if dual else ())))
    return f"{words[0].upper()}{words[1:]}"
