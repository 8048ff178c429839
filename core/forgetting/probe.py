"""The generic probe: zero-shot accuracy on everyday things before and after a training, so that forgetting shows.

Fine-tuned on one domain, a model may lose what it knew of all others (Wortsman et al., Robust fine-tuning of zero-shot
models, 2021, arXiv 2109.01903; Zheng et al., Preventing Zero-Shot Transfer Degradation in Continual Learning of
Vision-Language Models, 2023, arXiv 2303.06628). The same images are named before and after from a vocabulary of 130
words, so that guessing is right on less than one in a hundred, and the difference is tested in pairs.

By default the images are drawn (`core.forgetting.drawings`). What is measured is how drawings of 30 things are named:
it falls when general ability falls, but it says nothing of how well photographs are recognised; for that, give generic
photographs of your own. The embedded backbone, which learned from photographs alone, names 24 % of the 150 drawings and
has 39 % among its first five words, where guessing has 0.8 and 3.8 %.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.items import DomainData, Item, Label, spoken
from ..contracts.options import require
from ..data.class_folders import read_class_folders
from ..data.file_hashes import FileHashes
from ..data.verify import check_tolerated, drop_unreadable
from ..errors import DataError
from ..features.extract import AMP, BatchSizeTuner, DecodeJob, Encoded, check_amp, extract, in_eval_mode, renderer
from ..prompts.classifier import build_classifier
from ..runtime.progress import with_progress
from .score import DRAWN, GenericScore
from .score import generic_sentence as generic_sentence

DRAWING_TEMPLATES = ("a drawing of a {}.", "a picture of a {}.", "clip art of a {}.")
PHOTO_TEMPLATES = ("a photo of a {}.", "a picture of a {}.")
DRAWINGS_A_THING = 5
MOST_IMAGES = 1000
BATCH_SIZE = 32


@dataclass(frozen=True)
class GenericProbe:
    """Generic images and the words to name them from; `drawn()` or `from_folder(path)` makes one.

    Args:
        data: the images; a label is the index of a word.
        words: W names, those of the data's classes first.
        templates: texts with `{}` for the name.

    Example:
        probe = GenericProbe.drawn()
        before = probe.accuracy(backbone)
        ...  # train the towers
        print(generic_sentence(before, probe.accuracy(backbone)))
    """

    data: DomainData
    words: tuple[str, ...]
    templates: tuple[str, ...]

    @classmethod
    def drawn(cls, per_thing: int = DRAWINGS_A_THING) -> GenericProbe:
        """The probe of drawings: 30 things among 130 words, always the same.

        Args:
            per_thing: drawings of each; the first of them are the same whatever the number.

        Raises:
            ConfigError: per_thing is below 1.
        """
        from .drawings.things import OTHER_NAMES, THINGS  # all that is drawn; a prediction draws nothing

        require(per_thing >= 1, "per_thing", per_thing, "give 1 or more")
        names = tuple(THINGS)
        items = [_drawing(label, name, n) for label, name in enumerate(names) for n in range(per_thing)]
        data = DomainData(items, names, load=_draw_item, name=DRAWN, licence="Apache-2.0 (made by vladapt)")
        return cls(data, (*names, *OTHER_NAMES), DRAWING_TEMPLATES)

    @classmethod
    def from_folder(cls, path: str | Path, most: int = MOST_IMAGES) -> GenericProbe:
        """The probe of own images in class folders named as things are called.

        To the folders' names come the generic words that share no word with one of them, so that "bus" is not counted
        as wrong for "school bus". Other names of the same thing ("automobile" for "car") cannot be known.

        Args:
            path: a folder of class folders.
            most: of a larger set so many images are taken, evenly over the classes (at least one of each).

        Raises:
            DataError: no class folders with images, too many images unreadable, or two folders that are
                spoken alike.
        """
        require(most >= 1, "most", most, "give 1 or more")
        data = read_class_folders(path)
        names = tuple(spoken(name) for name in data.class_names)
        if len(distinct := {name.lower() for name in names}) < len(names):
            raise DataError(
                f"{path}: {len(names)} class folders have only {len(distinct)} distinct names; merge those with the "
                "same name"
            )
        check_tolerated(data)
        part = drop_unreadable(replace(data, items=_spread(data.items, most), skipped=[]), FileHashes())
        part.skipped = [*data.skipped, *part.skipped]
        return cls(part, (*names, *_unlike(names)), PHOTO_TEMPLATES)

    def accuracy(
        self,
        backbone: Backbone,
        *,
        batch_size: int | None = None,
        workers: int | None = None,
        amp: str | None = None,
    ) -> GenericScore:
        """Name all images by their most similar word.

        The model is left as it was found, in training or not, its parameters as trainable as before; no random number
        is drawn and nothing is stored. Under torch.distributed each rank that calls it does the whole work.

        Args:
            backbone: its `preprocess()`, `encode_image` and `encode_text` are used.
            batch_size: images at once; by default what the backbone says is best, else 32.
            workers: threads that read and preprocess; by default one per CPU core.
            amp: None, "bf16" or "fp16", for the image tower.

        Raises:
            ConfigError: an option is not usable. DataError: an image cannot be read any more.
        """
        check_amp(amp)
        # What a tower keeps of its first pass (masks, positions) must still serve one that trains: not inference mode.
        with torch.inference_mode(False), torch.no_grad(), in_eval_mode(backbone.model):
            texts = build_classifier(backbone, self.words, self.templates).weights.cpu()  # (W, D)
            images = self._encoded(backbone, batch_size, workers, amp)  # (N, D)
        similarity = images @ texts.T  # (N, W)
        ranks = _ranks(similarity, torch.tensor([item.class_label() for item in self.data.items]))
        usable = similarity.isfinite().all(dim=1) & (images != 0).any(dim=1)
        return GenericScore(
            top1=int((ranks == 0).sum()) / len(ranks),
            top5=int((ranks < 5).sum()) / len(ranks),
            images=len(images),
            words=len(self.words),
            name=self.data.name,
            right=ranks == 0,
            broken=int((~usable).sum()),
        )

    def _encoded(self, backbone: Backbone, batch_size: int | None, workers: int | None, amp: str | None) -> Tensor:
        """(N, D) unit features on the CPU, in the order of the items."""
        jobs = [DecodeJob(item, (str(i).encode(),), (None,)) for i, item in enumerate(self.data.items)]
        render = renderer(self.data.load, backbone.preprocess(), None)
        best = getattr(backbone, "best_batch_size", BATCH_SIZE)
        tuner = BatchSizeTuner(best if batch_size is None else batch_size)
        pin = backbone.device.type == "cuda"
        rows = []
        with closing(extract(jobs, render, _encoder(backbone, amp), tuner, workers, pin)) as results:
            for result in with_progress(results, "generic images", len(jobs)):
                if not isinstance(result, Encoded):
                    raise DataError(f"generic image {self.data.items[int(result.keys[0])].id}: {result.reason}")
                rows.append(torch.from_numpy(result.rows))
        return torch.cat(rows)


def _drawing(label: int, name: str, number: int) -> Item:
    return Item(f"{name}-{number}", Path(__file__), {"thing": name, "number": number}, Label(label))


def _draw_item(item: Item):
    from .drawings.things import draw

    return draw(item.decode["thing"], item.decode["number"])


def _spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most `most` items, as many of each class as of the others, from the first to the last of each."""
    if len(items) <= most:
        return list(items)
    by_label: dict[int, list[Item]] = {}
    for item in items:
        by_label.setdefault(item.class_label(), []).append(item)
    quota = max(1, most // len(by_label))
    chosen = []
    for label in sorted(by_label):
        group = by_label[label]
        count = min(quota, len(group))
        chosen += [group[i * len(group) // count] for i in range(count)]
    return chosen


def _unlike(names: Sequence[str]) -> list[str]:
    """The generic words that share no word with any of the names."""
    from .drawings.things import OTHER_NAMES, THINGS

    taken = set().union(*(_stems(name) for name in names))
    return [word for word in (*THINGS, *OTHER_NAMES) if not taken & _stems(word)]


def _stems(name: str) -> set[str]:
    """The words of a name, with and without the ending of a plural."""
    words = name.lower().split()
    return {word.removesuffix(ending) for word in words for ending in ("", "s", "es")}


def _encoder(backbone: Backbone, amp: str | None) -> Callable[[Tensor], Tensor]:
    """Pixels (B, 3, S, S) -> (B, D) unit features; zeros where they are not finite."""

    def encode(pixels: Tensor) -> Tensor:
        with torch.autocast(backbone.device.type, dtype=AMP[amp], enabled=amp is not None):
            features = backbone.encode_image(pixels.to(backbone.device, non_blocking=True)).float()
        return torch.where(features.isfinite().all(dim=1, keepdim=True), features, 0.0)

    return encode


def _ranks(similarity: Tensor, labels: Tensor) -> Tensor:
    """(N, W) -> (N,): how many other words are not less similar than the right one; NaN is never less."""
    right = similarity.gather(1, labels[:, None])  # (N, 1)
    return (~(similarity < right)).sum(dim=1) - 1


def probe_of(generic: str | None) -> GenericProbe:
    """The probe of a folder of class folders, or of drawings."""
    return GenericProbe.from_folder(generic) if generic else GenericProbe.drawn()
