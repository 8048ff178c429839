"""The pairs of several sources, in their splits, as those of one."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from ...contracts.backbone import Backbone
from ...contracts.items import Item
from ...contracts.sources import NamedSource, SourceOptions
from ...data.file_hashes import FileHashes
from ...data.pairs.captions import CaptionSampler
from ...data.pairs.columns import text_at
from ...data.pairs.joined_pairs import JoinedPairs
from ...data.pairs.pair_set import SPLIT_CODES, PairSet
from ...data.pairs.pair_splits import held_out_elsewhere, left_out
from ...data.pairs.source_list import check_sources
from ...data.pairs.text_pairs import TextPairs, read_text_pairs
from ...errors import ConfigError, DataError
from ...runtime.remote import printed_name
from ...training.mixing import Mixture, mixture_of, names_of
from ...training.sources import MixedSource, PairSource, TextSource
from ..retrieval.scoring import DomainPairs
from .pairs import PairSplits, check_enough, some, spread


@dataclass(frozen=True)
class TextSplits:
    """Pairs of texts to train on; nothing is measured on them, so that all are that are not marked as val or test.

    Args:
        train: a sentence and its translation each, or two texts that mean the same.
        held_out: how many are marked so.
    """

    train: TextPairs
    held_out: int = 0
    val: ClassVar[None] = None
    test: ClassVar[None] = None
    number_names: ClassVar[Mapping[str, Sequence[str]]] = {}

    @classmethod
    def read(cls, path: str) -> TextSplits:
        """Of a table; errors as of `read_text_pairs`, and DataError: nothing to train on."""
        read = read_text_pairs(path, val=0, test=0)
        train = read.split("train")
        check_enough(path, len(train), "pairs of texts")
        return cls(train, len(read) - len(train))

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return self.train.skipped

    @property
    def notes(self) -> list[str]:
        languages = ", ".join(self.train.languages)
        rest = f"; {self.held_out:,} marked as val or test are left out" if self.held_out else ""
        return [f"{len(self.train):,} pairs of texts ({languages}) are trained on; nothing is measured on them{rest}."]

    @property
    def identity(self) -> dict[str, Any]:
        return {"pairs": self.train.name, "texts": self.train.digest}

    def source(self, choose: CaptionSampler) -> TextSource:
        """To train from."""
        return TextSource(self.train)

    def view(self, backbone: Backbone, train: bool) -> Callable | None:
        return None

    def facts(self, path: str) -> dict[str, Any]:
        sizes = {"images": 0, "texts": len(self.train), "splits": {"train": len(self.train)}}
        return {"name": self.train.name, "path": printed_name(path), "licence": "unknown", **sizes}


@dataclass(frozen=True)
class SeveralSplits:
    """Pairs of several sources to train on, and those held out; what is asked of `PairSplits`.

    Args:
        sources: as the user names them.
        parts: the splits of each.
        mixture: how samples are drawn.
    """

    sources: Sequence[NamedSource]
    parts: Sequence[PairSplits | TextSplits]
    mixture: Mixture

    order = ""
    class_prompts: ClassVar[None] = None

    @property
    def names(self) -> tuple[str, ...]:
        return self.mixture.names

    @property
    def name(self) -> str:
        return " + ".join(self.names)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        return [(f"{name}/{what}", why) for name, part in zip(self.names, self.parts) for what, why in part.skipped]

    @cached_property
    def notes(self) -> list[str]:
        return [f"{name}: {note}" for name, part in zip(self.names, self.parts) for note in part.notes]

    @property
    def number_names(self) -> Mapping[str, Sequence[str]]:
        return {key: names for part in reversed(self.parts) for key, names in part.number_names.items()}

    @cached_property
    def train(self) -> JoinedPairs:
        """Pairs of images and texts."""
        parts = {
            name: part.train for name, part in zip(self.names, self.parts) if not isinstance(part.train, TextPairs)
        }
        return JoinedPairs(tuple(parts), tuple(parts.values()))

    @cached_property
    def val(self) -> JoinedPairs | TextPairs | None:
        return self._joined("val")

    @cached_property
    def test(self) -> JoinedPairs | TextPairs | None:
        return self._joined("test")

    @property
    def identity(self) -> dict[str, Any]:
        """What a checkpoint must share."""
        stages = json.dumps(asdict(self.mixture))
        parts = {name: part.identity for name, part in zip(self.names, self.parts)}
        return {"sources": parts, "mixture": hashlib.sha256(stages.encode()).hexdigest()[:16]}

    def source(self, choose: CaptionSampler) -> MixedSource:
        """To train from.

        Raises:
            ConfigError: as of `MixedSource`.
        """
        return MixedSource([part.source(choose) for part in self.parts], self.mixture)

    def view(self, backbone: Backbone, train: bool) -> Callable | None:
        """How an image becomes pixels, where that is not the backbone's own: all are read by one domain."""
        return next(part for part in self.parts if not isinstance(part, TextSplits)).view(backbone, train)

    def val_part(self, most: int) -> JoinedPairs | TextPairs:
        """Val, or so many of its pairs, equally many of each source."""
        assert self.val is not None
        return spread(self.val, most) if isinstance(self.val, TextPairs) else self.val.spread(most)

    def of_split(self, split: str) -> dict[str, Any]:
        """Name of a source -> its pairs in a split, of those that have some."""
        parts = {name: getattr(part, split) for name, part in zip(self.names, self.parts)}
        return {name: part for name, part in parts.items() if part is not None}

    def facts(self, path: str) -> dict[str, Any]:
        """For run.json and the report."""
        own = [part.facts(source.path) for source, part in zip(self.sources, self.parts)]
        licences = list(dict.fromkeys(each["licence"] for each in own))
        texts = [each.get("texts") for each in own]
        shares = zip(*(stage.shares for stage in self.mixture.stages))
        return {
            "name": self.name,
            "path": ", ".join(printed_name(source.path) for source in self.sources),
            "licence": licences[0] if len(licences) == 1 else ", ".join(licences),
            "images": sum(each["images"] for each in own),
            **({} if None in texts else {"texts": sum(texts)}),
            "splits": {
                split: sum(each["splits"].get(split, 0) for each in own)
                for split in dict.fromkeys(name for each in own for name in each["splits"])
            },
            "sources": [
                {**each, "name": name, "weight": source.weight, "shares": [round(share, 6) for share in of]}
                for name, source, each, of in zip(self.names, self.sources, own, shares)
            ],
        }

    def _joined(self, split: str) -> JoinedPairs | TextPairs | None:
        parts = self.of_split(split)
        if parts and all(isinstance(part, TextPairs) for part in parts.values()):
            return TextPairs.joined(list(parts.values()))
        return JoinedPairs(tuple(parts), tuple(parts.values())) if parts else None


def read_several(
    sources: Sequence[NamedSource], options: SourceOptions, read: Callable[[str], PairSplits | TextSplits]
) -> SeveralSplits:
    """Read each source, and say how they are mixed.

    Args:
        read: the path of a source -> its pairs.

    Raises:
        DataError: a source is missing, or nothing in it can be used; or the file of stages. ConfigError: all hold texts
            that nothing but beside images can be learned from.
    """
    check_sources(sources)
    names = names_of(sources)
    mixture_of(sources, options, names, [1] * len(sources))  # what is wrong with the file of stages comes before all
    parts = apart(names, [read(source.path) for source in sources])
    if all(isinstance(part, TextSplits) for part in parts):
        raise ConfigError(
            f"source {names[0]}: holds texts without images, as all sources; add pairs of images, or give --loss m-clip"
        )
    return SeveralSplits(sources, parts, mixture_of(sources, options, names, [_size(part) for part in parts]))


def apart(names: Sequence[str], parts: Sequence[PairSplits | TextSplits]) -> list[PairSplits | TextSplits]:
    """Sources without the pairs whose images, or sentences, others hold out, which a note counts.

    Args:
        names: of the sources.

    Raises:
        DataError: nothing is left of one to train on, or an image that may be a copy cannot be read.
    """
    changed: list[Any] = list(parts)
    for number, copies in {**_copies_between(names, parts), **_equal_sentences(parts)}.items():
        rest = {
            split: some(getattr(parts[number], split).select(np.flatnonzero(~rows))) for split, rows in copies.items()
        }
        what = "the sentence" if isinstance(parts[number].train, TextPairs) else "a copy of the image"
        if rest.get("train", True) is None:
            raise DataError(
                f"{names[number]}: other sets hold out {what} of all its pairs to train on but one; give both a column "
                "split that agrees, or omit one of them"
            )
        notes = [*parts[number].notes, left_out(sum(int(rows.sum()) for rows in copies.values()), what)]
        changed[number] = replace(changed[number], **rest, notes=notes)
    return changed


def _copies_between(
    names: Sequence[str], parts: Sequence[PairSplits | TextSplits | None]
) -> dict[int, dict[str, np.ndarray]]:
    """Which rows are `held_out_elsewhere`: number of a source -> split -> (N,) bool, of those that have any.

    Args:
        names: of the sources.

    Raises:
        DataError: an image that may be a copy cannot be read.
    """
    splits = [(number, split) for number, part in enumerate(parts) if part is not None for split in _compared(part)]
    if not splits:
        return {}
    pairs = JoinedPairs(
        tuple(names[number] for number, _ in splits), tuple(getattr(parts[number], split) for number, split in splits)
    )
    copies: dict[int, dict[str, np.ndarray]] = {}
    for (number, split), rows in zip(splits, np.split(held_out_elsewhere(pairs, FileHashes()), pairs.offsets[1:-1])):
        if rows.any():
            copies.setdefault(number, {})[split] = rows
    return copies


def _equal_sentences(parts: Sequence[PairSplits | TextSplits]) -> dict[int, dict[str, np.ndarray]]:
    """As `_copies_between`, of translations whose sentence another source holds out."""
    texts = {
        number: part.train
        for number, part in enumerate(parts)
        if isinstance(part, PairSplits) and isinstance(part.train, TextPairs)
    }
    held_out: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number, train in texts.items():
        for row in np.flatnonzero(train.split_codes > SPLIT_CODES["train"]).tolist():
            held_out[text_at(train.sentences, row)].append((number, int(train.split_codes[row])))
    equal: dict[int, dict[str, np.ndarray]] = {}
    for number in texts:
        for split, pairs in {"train": parts[number].train, "val": parts[number].val}.items():
            if not isinstance(pairs, TextPairs):
                continue
            of_others = [
                row
                for row in np.unique(pairs.sentence_of).tolist()
                for other, code in held_out.get(text_at(pairs.sentences, row), ())
                if other != number and code > SPLIT_CODES[split]
            ]
            if of_others:
                equal.setdefault(number, {})[split] = np.isin(pairs.sentence_of, of_others)
    return equal


def _compared(part: PairSplits | TextSplits) -> list[str]:
    """Splits whose images can be compared with those of other sources."""
    splits = {split: getattr(part, split) for split in Item.SPLITS}
    return [name for name, pairs in splits.items() if isinstance(pairs, (PairSet, DomainPairs)) and pairs.comparable]


def _size(part: PairSplits | TextSplits) -> int:
    """Samples of a pass."""
    source = part.source(CaptionSampler())
    weights = source.weights if isinstance(source, PairSource) else None
    return len(source) if weights is None else max(1, round(float(weights.sum())))
