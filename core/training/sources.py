"""Where a training sample comes from: pairs of images and texts, or labelled images with one prompt per class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol

import numpy as np

from ..contracts.items import Decoded, Item
from ..data.pairs.pair_set import PairSet
from ..data.pairs.text_pairs import TextPairs
from ..errors import ConfigError, DataError
from .mixing import Mixture

REMEMBERED_BYTES = 256 << 20
SUB_CAPTIONS = 3
"""Sub-captions of an image in one step, where a loss asks for several."""


class TrainingSource(Protocol):
    """What a training set must offer. `texts` says which of its texts it can give, `columns` what its further columns
    hold, which losses that bring outputs may ask for: "text" (also in `texts`), "numbers" or "image"."""

    texts: frozenset[str]
    labelled: bool
    columns: Mapping[str, str]

    def __len__(self) -> int: ...

    def name(self, row: int) -> str:
        """For messages."""

    def image(self, row: int) -> Decoded:
        """The decoded image; raises DataError for one that cannot be read."""

    def negative_image(self, row: int) -> Decoded:
        """A hard negative image."""

    def text(self, kind: str, row: int, epoch: int) -> str | list[str]:
        """Of "caption", "view2", "short", "synthetic", "negative" or a column, or a list for "positives"."""

    def label(self, row: int) -> int | tuple[float, ...]:
        """Class or identity, -1 where there is none; 0/1/NaN per class where an image has several labels."""

    def image_id(self, row: int) -> int:
        """Which image it is; rows of one image share it."""

    def numbers(self, column: str, row: int) -> Sequence[float]:
        """What a column holds, NaN where the row has none; equally many in all rows."""

    def column_image(self, column: str, row: int) -> Decoded:
        """The decoded image that a column names."""


@dataclass
class PairSource:
    """Image-text pairs.

    Args:
        pairs: a PairSet.
        choose: how one of several captions is chosen: a CaptionSampler.
    """

    pairs: Any
    choose: Any

    @property
    def texts(self) -> frozenset[str]:
        # A negative is made of the caption where the data has none; a synthetic caption cannot be.
        columns = {"synthetic", "negative_image"} & set(self.pairs.fields)
        further = {name for name, kind in self.columns.items() if kind == "text"}
        return frozenset({"caption", "view2", "positives", "short", "negative"}) | columns | further

    @property
    def columns(self) -> Mapping[str, str]:
        return self.pairs.further_columns

    @property
    def labelled(self) -> bool:
        return "label" in self.pairs.fields

    @property
    def class_names(self) -> tuple[str, ...]:
        """What labels index."""
        return tuple(self.pairs.class_names)

    @property
    def weights(self) -> np.ndarray | None:
        """(N,) how often each pair should be seen in an epoch, on average; None for once each."""
        return self.pairs.weights if isinstance(self.pairs, PairSet) else None

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, row: int) -> str:
        return self.pairs.id(row)

    def image(self, row: int) -> Decoded:
        return self.pairs.load_image(row)

    def negative_image(self, row: int) -> Decoded:
        return self.pairs.load_negative_image(row)

    def text(self, kind: str, row: int, epoch: int) -> str | list[str]:
        pair = self.pairs[row]
        if kind == "caption":
            return self.choose.choose(pair, epoch, row)
        if kind == "view2":
            return self.choose.second(pair, epoch, row)
        if kind == "positives":
            return self.choose.several(pair, epoch, row, SUB_CAPTIONS)
        if kind == "short":
            return self.choose.short(pair, epoch, row)
        return self.choose.other(pair, kind, epoch, row)

    def label(self, row: int) -> int:
        label = self.pairs[row].label
        return -1 if label is None else label

    def image_id(self, row: int) -> int:
        return self.pairs[row].image

    def numbers(self, column: str, row: int) -> Sequence[float]:
        return self.pairs.numbers(row, column)

    def column_image(self, column: str, row: int) -> Decoded:
        return self.pairs.load_column_image(row, column)


@dataclass
class StreamedSource(PairSource):
    """Image-text pairs that are read in a row: `pairs` says what there is and in which order; a sample is asked for
    only of a part that is in memory.

    Args:
        pairs: a ShardPairs.
        choose: a CaptionSampler.
    """

    def part(self, samples: Mapping[int, Any]) -> PairSource:
        """Row -> sample as a source of its own."""
        return PairSource(self.pairs.block_of(samples), self.choose)


@dataclass
class TextSource:
    """Translations and the sentences that they are of, without an image: the text of a sample is the translation.

    Args:
        pairs: a TextPairs.
    """

    pairs: TextPairs

    texts: ClassVar[frozenset[str]] = frozenset({"caption", "sentence"})
    columns: ClassVar[Mapping[str, str]] = {}
    labelled: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, row: int) -> str:
        return self.pairs.id(row)

    def image(self, row: int) -> Decoded:
        raise DataError(f"{self.pairs.name}: holds sentences and their translations, no images")

    def text(self, kind: str, row: int, epoch: int) -> str:
        sentence, translation = self.pairs[row]
        return sentence if kind == "sentence" else translation

    def image_id(self, row: int) -> int:
        return int(self.pairs.sentence_of[row])


@dataclass(frozen=True)
class TargetNumbers:
    """Numbers that the targets of items bring (`Target.numbers`), as columns.

    Args:
        items: the samples.
    """

    items: Sequence[Item]

    @property
    def columns(self) -> dict[str, str]:
        """Name -> "numbers"."""
        return dict.fromkeys(self._widths, "numbers")

    def numbers(self, column: str, row: int) -> Sequence[float]:
        """Of an item, NaN where it has none.

        Raises:
            DataError: it has more or fewer than the first item that has any.
        """
        width = self._widths[column]
        numbers = _numbers(_facts(self.items[row]).get(column)) or (math.nan,) * width
        if len(numbers) != width:
            raise DataError(f"{self.items[row].id}: {column} has {len(numbers)} numbers, of the first image {width}")
        return numbers

    @cached_property
    def _widths(self) -> dict[str, int]:
        """How many numbers each column has, by the first item that has it."""
        facts = [(name, len(_numbers(value))) for item in self.items for name, value in _facts(item).items()]
        return {name: width for name, width in reversed(facts) if width}


@dataclass
class _Images:
    """Images of items. Numbers that targets bring (`Target.numbers`) are their columns.

    Args:
        items: the samples.
        load: item -> decoded image.
    """

    items: Sequence[Item] | Mapping[int, Item]
    load: Callable[[Item], Decoded]

    def __len__(self) -> int:
        return len(self.items)

    def name(self, row: int) -> str:
        return self.items[row].id

    def image(self, row: int) -> Decoded:
        return self.load(self.items[row])

    @cached_property
    def facts(self) -> TargetNumbers:
        return TargetNumbers(self.items)

    @property
    def columns(self) -> Mapping[str, str]:
        return self.facts.columns

    def numbers(self, column: str, row: int) -> Sequence[float]:
        return self.facts.numbers(column, row)


@dataclass
class LabelledSource(_Images):
    """Labelled images; the text of an image is a prompt of its class. One with several labels has no text of its own.

    Args:
        items: each with one label, or all with several.
        load: item -> decoded image.
        prompts: C lists of prompts; an epoch uses one of them in turn.
        draw: (row, seed) -> the sample that is seen in the place of an item, anew in each epoch; None: the item.
    """

    prompts: Sequence[Sequence[str]]
    draw: Callable[[int, int], Item] | None = None

    labelled = True

    @property
    def texts(self) -> frozenset[str]:
        several = any(isinstance(item.class_label(), tuple) for item in self.items)
        return frozenset() if several else frozenset({"caption", "view2"})

    def drawn(self, row: int, seed: int) -> LabelledSource:
        """The source of one row, the sample that is seen in its place."""
        if self.draw is None:
            return self
        one = copy(self)
        one.items = {row: self.draw(row, seed)}
        return one

    def negative_image(self, row: int) -> Decoded:
        raise AssertionError("a labelled set has no negative images, and does not say it has")

    def text(self, kind: str, row: int, epoch: int) -> str:
        prompts = self.prompts[self.items[row].class_label()]
        return prompts[(epoch + row + (kind == "view2")) % len(prompts)]

    def label(self, row: int) -> int | tuple[float, ...]:
        return self.items[row].training_label()

    def image_id(self, row: int) -> int:
        return row

    def column_image(self, column: str, row: int) -> Decoded:
        raise AssertionError("a labelled set has no columns of images, and does not say it has")


@dataclass
class ImageSource(_Images):
    """Images without labels, alone or each with one text.

    Args:
        items: the samples; rows of one image have the same item.
        load: item -> decoded image.
        captions: the text of each row, or none.
    """

    captions: Sequence[str] = ()

    labelled = False

    @property
    def texts(self) -> frozenset[str]:
        return frozenset({"caption"} if self.captions else ())

    def text(self, kind: str, row: int, epoch: int) -> str:
        return self.captions[row]

    def image_id(self, row: int) -> int:
        return self._rows[self.items[row].id]

    @cached_property
    def _rows(self) -> dict[str, int]:
        """The last row of each image."""
        return {item.id: row for row, item in enumerate(self.items)}


class MixedSource:
    """Several sources as one, their rows one source after the other; it has what all of them have. Classes of sources
    whose sets name them are one where their names are.

    Pairs of texts may stand beside those of images: in their batches a sentence is in the place of the image. Joint
    contrastive training on both: Jina CLIP: Your CLIP Model Is Also Your Text Retriever, 2024, arXiv 2405.20204. Where
    all sources are pairs of texts, nothing is in the place of an image.

    Args:
        parts: the sources, each a `TrainingSource` or a `TextSource`.
        mixture: how samples are drawn from them.

    Raises:
        ConfigError: pairs of texts are mixed with others in one batch.
    """

    def __init__(self, parts: Sequence[Any], mixture: Mixture):
        self.parts, self.mixture = tuple(parts), mixture
        self.offsets = np.cumsum([0, *(len(part) for part in parts)])
        texts = tuple(isinstance(part, TextSource) for part in parts)
        self.of_texts = tuple(each and not all(texts) for each in texts)
        if any(self.of_texts):
            self._check_texts()
            parts = [part for part in parts if not isinstance(part, TextSource)]
        self.columns = {
            name: kind
            for name, kind in parts[0].columns.items()
            if all(part.columns.get(name) == kind for part in parts[1:])
        }
        other = {name for part in parts for name in part.columns} - self.columns.keys()
        self.texts = frozenset.intersection(*(part.texts for part in parts)) - other
        names = [part.class_names if isinstance(part, PairSource) and part.labelled else () for part in parts]
        self.labelled = all(names)
        merged = {name: place for place, name in enumerate(dict.fromkeys(each for of in names for each in of))}
        self._labels = [{label: merged[name] for label, name in enumerate(of)} for of in names]
        self.num_labels = len(merged)

    def __len__(self) -> int:
        return int(self.offsets[-1])

    def _check_texts(self) -> None:
        name = self.mixture.names[self.of_texts.index(True)]
        if not self.mixture.one:
            raise ConfigError(
                f"source {name}: holds texts without images, which share no batch with images; add "
                "--set sources.batch=one, or name its column of images as data.image_column"
            )

    @property
    def streamed(self) -> tuple[bool, ...]:
        """Which of the sources are read in a row."""
        return tuple(isinstance(part, StreamedSource) for part in self.parts)

    @property
    def weights(self) -> list[np.ndarray | None]:
        """Of each source (N,) how often each of its samples should be seen in a pass, on average; None for once."""
        return [part.weights if isinstance(part, PairSource) else None for part in self.parts]

    def number(self, row: int) -> int:
        """Which of the sources a row is of."""
        return int(np.searchsorted(self.offsets, row, side="right")) - 1

    def with_block(self, number: int, samples: Mapping[int, Any]) -> MixedSource:
        """The same where of a source that is read in a row so many samples, row -> sample, are in memory."""
        changed = copy(self)
        part: Any = self.parts[number]
        changed.parts = (*self.parts[:number], part.part(samples), *self.parts[number + 1 :])
        return changed

    def name(self, row: int) -> str:
        part, own = self._place(row)
        return part.name(own)

    def image(self, row: int) -> Decoded:
        part, own = self._place(row)
        return part.image(own)

    def negative_image(self, row: int) -> Decoded:
        part, own = self._place(row)
        return part.negative_image(own)

    def text(self, kind: str, row: int, epoch: int) -> str | list[str]:
        part, own = self._place(row)
        return part.text(kind, own, epoch)

    def label(self, row: int) -> int | tuple[float, ...]:
        part, own = self._place(row)
        label = part.label(own)
        return self._labels[self.number(row)].get(label, label) if isinstance(label, int) else label

    def image_id(self, row: int) -> int:
        part, own = self._place(row)
        return int(self.offsets[self.number(row)]) + part.image_id(own)

    def numbers(self, column: str, row: int) -> Sequence[float]:
        part, own = self._place(row)
        return part.numbers(column, own)

    def column_image(self, column: str, row: int) -> Decoded:
        part, own = self._place(row)
        return part.column_image(column, own)

    def _place(self, row: int) -> tuple[Any, int]:
        number = self.number(row)
        return self.parts[number], row - int(self.offsets[number])


def in_sequence(source: TrainingSource) -> bool:
    """Whether samples, or some of them, are read in a row."""
    return any(source.streamed) if isinstance(source, MixedSource) else isinstance(source, StreamedSource)


def num_labels_of(source: TrainingSource) -> int:
    """One more than the highest label; 0 where samples have no label, or several, or are read in a row."""
    if not (source.labelled and len(source)) or in_sequence(source):
        return 0
    if isinstance(source, MixedSource):
        return source.num_labels
    if isinstance(source, PairSource):
        return 1 + int(source.pairs.labels.max(initial=-1))
    if isinstance(source.label(0), tuple):
        return 0
    return 1 + max(source.label(row) for row in range(len(source)))


def _facts(item: Item) -> Mapping[str, Any]:
    return {} if item.target is None else item.target.numbers()


def _numbers(fact: Any) -> tuple[float, ...]:
    """A fact of an item as numbers; none where it is something else."""
    several = fact if isinstance(fact, (list, tuple)) else (fact,)
    return tuple(map(float, several)) if all(isinstance(part, (int, float)) for part in several) else ()


class Remembered:
    """Decodes an image once, as long as all fit into memory: a few shots are looked at thousands of times.

    Args:
        load: item -> decoded image.
        most: bytes.
    """

    def __init__(self, load: Callable[[Item], Decoded], most: int = REMEMBERED_BYTES):
        self.load, self.left = load, most
        self._kept: dict[str, Decoded] = {}

    def __call__(self, item: Item) -> Decoded:
        stored = self._kept.get(item.id)
        if stored is not None:
            return stored.copy()  # whoever gets it may write into it
        decoded = self.load(item)
        if decoded.nbytes <= self.left:
            self._kept[item.id] = decoded.copy()
            self.left -= decoded.nbytes
        return decoded
