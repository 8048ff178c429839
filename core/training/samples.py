"""A training set as torch's DataLoader wants it: each sample a function of (seed, epoch, row), made in any process."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..contracts.options import TOLERATED
from ..errors import CapabilityError, DataError
from ..runtime.distributed import all_gather_json
from .fields import SENTENCE, TEXT_KINDS, column_of, text_kind
from .sources import LabelledSource, MixedSource, TrainingSource
from .stored_teachers import StoredTeacher, stored_field

LOCAL_CROPS = 8
"""Small crops of an image in one step, where a loss asks for them, as SILC has them."""
DRAWS = 1024
"""Numbers drawn for a sample, where patches or words of it are hidden: a tower of more patches uses them again."""
MOST_NAMED = 10_000
"""Unreadable samples of a process that are named: of a set without end there may be as many."""
TRIES = 50


@dataclass
class Samples(Dataset):
    """Samples with the fields that a model asks for.

    Args:
        source: images, texts and labels.
        fields: names of `core/training/fields.py`.
        views: "light", "strong" and "local", and fields that losses make -> (decoded image, seed) -> pixels.
        tokenize: N texts -> (N, L) int64.
        seed: with the epoch and the row it fixes every view and every drawn text.
        token_mask: (N, L) tokens -> (N, L) bool, where texts are cut to the longest; None: nobody asks for lengths.
        tokenize_further: field -> of which field it is the text, and how another text tower, that of a teacher, reads
            it.
        stored: teachers whose features of the images are stored; with them the main view is the stored one.
    """

    source: TrainingSource
    fields: frozenset[str]
    views: dict[str, Callable[[Any, int], Tensor]]
    tokenize: Callable[[list[str]], Tensor]
    seed: int
    token_mask: Callable[[Tensor], Tensor] | None = None
    tokenize_further: Mapping[str, tuple[str, Callable[[list[str]], Tensor]]] = field(default_factory=dict)
    stored: Sequence[StoredTeacher] = ()

    metainfo: dict = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, place: tuple[int, int]) -> dict[str, Any]:
        """The sample of (epoch, row). A row that cannot be read is replaced by one after it, of the same source, and
        named in "broken"."""
        epoch, row = place
        if isinstance(self.source, MixedSource):
            own = self.source.number(row)
            first, last = self.source.offsets[own : own + 2].tolist()
        else:
            first, last = 0, len(self)
        tried = range(min(TRIES, last - first))
        return self.first_readable(epoch, (first + (row - first + attempt) % (last - first) for attempt in tried))

    def first_readable(self, epoch: int, rows: Iterable[int]) -> dict[str, Any]:
        """The sample of the first of some rows that can be read; those before it are named in "broken"."""
        broken: list[tuple[str, str]] = []
        for tried in rows:
            try:
                return {**self._fields(epoch, tried), "index": torch.tensor(tried), "broken": broken}
            except DataError as error:
                broken.append((self.source.name(tried), " ".join(str(error).split())))
        raise DataError(f"{len(broken)} samples in a row cannot be read; {broken[0][0]}: {broken[0][1]}")

    def _fields(self, epoch: int, row: int) -> dict[str, Any]:
        if isinstance(self.source, MixedSource) and self.source.of_texts[self.source.number(row)]:
            return self._texts_alone(epoch, row)
        source = self._drawn(epoch, row)
        made: dict[str, Any] = {}
        columns = {name: column for name in self.fields if (column := column_of(name))}
        of_losses = self.fields & self.views.keys()
        if of_losses or any(
            name.startswith("pixels") and name != "pixels_negative" for name in self.fields - columns.keys()
        ):
            decoded = source.image(row)
            made.update(self._pixels(decoded, epoch, row))
            made.update({name: self._view(name, decoded, epoch, row, name) for name in sorted(of_losses)})
        if "pixels_negative" in self.fields:
            made["pixels_negative"] = self._view("light", source.negative_image(row), epoch, row, 90)
        for name, kind in {name: kind for name in self.fields if (kind := text_kind(name))}.items():
            text = source.text(kind, row, epoch)
            tokens = self.tokenize([text] if isinstance(text, str) else list(text))  # (1 or N, L)
            made[name] = tokens[0] if isinstance(text, str) else tokens
        for name, (read, tokenize) in self.tokenize_further.items():
            made[name] = tokenize([str(source.text(TEXT_KINDS.get(read, read), row, epoch))])[0]
        for teacher in self.stored:
            made[stored_field(teacher.place)] = teacher.of(self.source, row, epoch)
        for name, column in columns.items():
            if name.startswith("numbers."):
                made[name] = torch.tensor(tuple(source.numbers(column, row)), dtype=torch.float64)  # (n,)
            elif name.startswith("pixels."):
                made[name] = self._view("light", source.column_image(column, row), epoch, row, name)
        if "labels" in self.fields:
            made["labels"] = torch.tensor(source.label(row))
        if "image_ids" in self.fields:
            made["image_ids"] = torch.tensor(source.image_id(row))
        if "draws" in self.fields:
            generator = torch.Generator().manual_seed(seed_of(self.seed, epoch, row, 50))
            made["draws"] = torch.rand(4, DRAWS, generator=generator)
        return made

    def _drawn(self, epoch: int, row: int) -> TrainingSource:
        """The source, of which the sample is drawn anew where it says so."""
        if not isinstance(self.source, LabelledSource) or self.source.draw is None:
            return self.source
        if self.stored:
            raise CapabilityError(
                f"{self.source.name(row)}: is drawn anew in each epoch, and a teacher's features are stored of fixed "
                "images; omit --draw-windows"
            )
        return self.source.drawn(row, seed_of(self.seed, epoch, row, "drawn"))

    def _texts_alone(self, epoch: int, row: int) -> dict[str, Any]:
        """Of a pair of texts: the sentence in the place of the image."""
        texts = {"tokens": "caption", SENTENCE: "sentence"}
        return {name: self.tokenize([str(self.source.text(kind, row, epoch))])[0] for name, kind in texts.items()}

    def _pixels(self, decoded: Any, epoch: int, row: int) -> dict[str, Tensor]:
        makers = {
            "pixels": lambda: self._main_view(decoded, epoch, row),
            "pixels_view2": lambda: self._view("light", decoded, epoch, row, 1),
            "pixels_strong1": lambda: self._view("strong", decoded, epoch, row, 2),
            "pixels_strong2": lambda: self._view("strong", decoded, epoch, row, 3),
            "pixels_local": lambda: torch.stack(
                [self._view("local", decoded, epoch, row, 10 + i) for i in range(LOCAL_CROPS)]
            ),
        }
        return {name: make() for name, make in makers.items() if name in self.fields}

    def _main_view(self, decoded: Any, epoch: int, row: int) -> Tensor:
        seed = self.stored[0].seed(self.source, row, epoch) if self.stored else None
        return self._view("light", decoded, epoch, row, 0) if seed is None else self.views["light"](decoded, seed)

    def _view(self, kind: str, decoded: Any, epoch: int, row: int, number: int | str) -> Tensor:
        return self.views[kind](decoded, seed_of(self.seed, epoch, row, number))


def seed_of(*numbers: float | str) -> int:
    """One seed from several numbers or names, without the patterns that sums of them have."""
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:7], "big")


def seed_torch(seed: int) -> None:
    """torch's own generators, as `torch.manual_seed`; without a GPU that of the CPU alone, since for each kind of GPU
    that there is not `torch.manual_seed` would note the whole call stack, in every step."""
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:
        torch.default_generator.manual_seed(seed)


def seed_everything(seed: int) -> None:
    """Python's, numpy's and torch's own generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    seed_torch(seed)


def collate(samples: list[dict[str, Any]], token_mask: Callable[[Tensor], Tensor] | None = None) -> dict[str, Any]:
    """Fields stacked, (B, ...); "broken" as one list.

    Args:
        token_mask: of `Samples`. With it there are, beside each field of tokens, the lengths of its texts, as
            `length_field` names them: the host knows them before the tokens are on the device.
    """
    batch: dict[str, Any] = {"broken": [pair for sample in samples for pair in sample["broken"]]}
    for name in samples[0]:
        if name != "broken":
            batch[name] = torch.stack([sample[name] for sample in samples])
            if token_mask is not None and text_kind(name):
                batch[length_field(name)] = _lengths_of(batch[name], token_mask)
    return batch


def length_field(name: str) -> str:
    """Where a batch has the lengths of a field of tokens."""
    return f"lengths of {name}"


def _lengths_of(tokens: Tensor, token_mask: Callable[[Tensor], Tensor]) -> np.ndarray:
    """(..., L) tokens on the CPU -> (...) integers: how many of each text take part."""
    return token_mask(tokens.flatten(0, -2)).sum(dim=1).view(tokens.shape[:-1]).numpy()


@dataclass
class BrokenSamples:
    """What could not be read while training: counted once each, and too many stop the run.

    Attributes:
        reasons: name -> reason, of the first `MOST_NAMED`.
        further: how many more there were in this epoch.
    """

    total: int
    tolerate: float = TOLERATED
    reasons: dict[str, str] = field(default_factory=dict)
    further: int = 0

    def note(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Those of this process."""
        for name, reason in pairs:
            if name in self.reasons or len(self.reasons) < MOST_NAMED:
                self.reasons[name] = reason
            else:
                self.further += 1

    def gather(self) -> None:
        """Those of all processes; to be called on all of them.

        Raises:
            DataError: more of the training set than is tolerated.
        """
        further, self.further = sum(all_gather_json(self.further)), 0
        for reasons in all_gather_json(self.reasons):
            self.reasons.update(reasons)
        count = len(self.reasons) + further
        if count > self.tolerate * self.total and (count > 1 or not self.tolerate):
            name, reason = next(iter(sorted(self.reasons.items())))
            more = f"more than {100 * self.tolerate:g} %"
            raise DataError(f"{count} of {self.total} training samples cannot be read, {more}; {name}: {reason}")
