"""Domains whose sample breaks one rule each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from broken_domains import Changed, Whole, breaks, draw, item_of

from vladapt import Boxes, CapabilityError, Label, Labels, Mask, Target


@breaks("its sample cannot be read: RuntimeError: no")
class NoSample(Whole):
    def sample(self, task):
        raise RuntimeError("no")


@breaks("its sample: class_names are ['red', 'green', 'blue']; give a tuple of texts")
class ListedNames(Changed):
    def of_sample(self, data):
        return replace(data, class_names=list(data.class_names))


@breaks("its sample has two classes called 'red'")
class TwoOfAName(Changed):
    def of_sample(self, data):
        return replace(data, class_names=("red", "red", "blue"))


@breaks("its sample has no name; reports show it")
class Nameless(Changed):
    def of_sample(self, data):
        return replace(data, name="")


@breaks("its sample: frequency is not one of r, c and f per class")
class OddFrequency(Changed):
    def of_sample(self, data):
        return replace(data, frequency=("r", "c"))


@breaks("its sample has no item with a target, so nothing can be learned")
class Unlabelled(Changed):
    def of_item(self, index, item):
        return item.with_(target=None)


@breaks("its sample cannot be used: it: 1 class with images; a classifier needs at least two classes")
class OneClass(Changed):
    def of_item(self, index, item):
        return item.with_(target=Label(0))


@breaks("its sample has two items called 'patch-0'; an id is unique")
class OneId(Changed):
    def of_item(self, index, item):
        return item.with_(id="patch-0") if index == 5 else item


@breaks("its sample: item 'patch-0' has the source 'patch.png'; give a Path")
class TextSource(Changed):
    def of_item(self, index, item):
        return item.with_(source="patch.png")


@breaks(
    "its sample: item 'patch-0' has the source patch.png, which is no file; of a drawn image give the file that draws "
    "it"
)
class NoSource(Changed):
    def of_item(self, index, item):
        return item.with_(source=Path("patch.png"))


@breaks("its sample: item 'patch-0' has a decode that JSON cannot hold (...)")
class OddDecode(Changed):
    def of_item(self, index, item):
        return item.with_(decode={**item.decode, "window": {1, 2}})


@breaks("its sample: item 'patch-0' has the group 0; give a text or None")
class NumberedGroup(Changed):
    def of_item(self, index, item):
        return item.with_(group=index // 3)


@breaks("its sample: item 'patch-0' has the split 'dev'; give one of train, val, test, or an empty text")
class OddSplit(Changed):
    def of_item(self, index, item):
        return item.with_(split="dev" if index == 0 else item.split)


@breaks("its sample: the target of item 'patch-0' is a int; derive its class from vladapt.Target")
class BareTarget(Changed):
    def of_item(self, index, item):
        return item.with_(target=index % 3)


@breaks("its sample: the target of item 'patch-5' is class 5; there are 3")
class NoSuchClass(Changed):
    def of_item(self, index, item):
        return item.with_(target=Label(5)) if index == 5 else item


@breaks("its sample: the target of item 'patch-0' is (1.0, 0.0); give 0, 1 or NaN for each of the 3 classes")
class ShortLabels(Changed):
    def of_item(self, index, item):
        return item.with_(target=Labels((1.0, 0.0)))

    def of_sample(self, data):
        return replace(data, kind="multilabel")


@breaks("its sample: the target of item 'patch-0' has 1 boxes and 2 labels")
class BoxTooFew(Changed):
    def of_item(self, index, item):
        return item.with_(target=Boxes(((0.0, 0.0, 4.0, 4.0),), (0, 1)))

    def of_sample(self, data):
        return replace(data, kind="boxes")

    def sample(self, task):
        data = super().sample(task)
        return replace(data, class_names=("red", "green"))


@breaks("its sample: the target of item 'patch-0' has the box (4.0, 0.0, 0.0, 4.0); give x0, y0, x1, y1 in pixels")
class CrookedBox(Changed):
    def of_item(self, index, item):
        return item.with_(target=Boxes(((4.0, 0.0, 0.0, 4.0),), (index % 3,)))

    def of_sample(self, data):
        return replace(data, kind="boxes")


@dataclass(frozen=True)
class NeverRestricted(Target):
    """A class that says in one line that it is not renumbered."""

    index: int

    def class_label(self):
        return self.index

    def restricted(self, new):
        raise CapabilityError("targets stay as they are")


class Renamed(Changed):
    """Whole, but that its classes cannot be chosen, which it says."""

    def of_item(self, index, item):
        return item.with_(target=NeverRestricted(index % 3))


@dataclass(frozen=True)
class Angle(Target):
    """A class of an angle, which stays what it was whatever classes are chosen."""

    index: int

    def class_label(self):
        return self.index

    def restricted(self, new):
        return self


@breaks("its sample: Angle.restricted({2: 0, 0: 1}) of item 'patch-0' names (0,), not (1,)")
class NotRenumbered(Changed):
    def of_item(self, index, item):
        return item.with_(target=Angle(index % 3))


@breaks("its sample: item 'patch-0' decodes to int64; give uint8, or float32 in 0..1")
class LongInts(Changed):
    def of_sample(self, data):
        return replace(data, load=lambda item: draw(item).astype(np.int64))


@breaks("its sample: item 'patch-0' decodes to float32 out of 0..1")
class Bright(Changed):
    def of_sample(self, data):
        return replace(data, load=lambda item: draw(item).astype(np.float32))


@breaks("its sample: item 'patch-0' decodes to another image the second time")
class DrawnAnew(Changed):
    def of_sample(self, data):
        return replace(data, load=lambda item: np.random.default_rng().integers(0, 255, (9, 9, 3)).astype(np.uint8))


@breaks(
    "its sample: items 'patch-0' and 'patch-5' show different images and have the same source and decode, by which "
    "features are stored; tell them apart in decode"
)
class OneDecode(Changed):
    def of_item(self, index, item):
        return item.with_(decode=item_of(0).decode) if index in (0, 5) else item

    def of_sample(self, data):
        def load(item):
            return draw(item_of(int(item.id.partition("-")[2])))

        return replace(data, load=load)


class Masked(Changed):
    """Masks of the class of the colour."""

    def of_item(self, index, item):
        return item.with_(target=Mask(labels=tuple(float(index % 3 == c) for c in range(3))))

    def mask(self, item):
        return np.full((20, 24), item.decode["index"] % 3, np.uint8)

    def of_sample(self, data):
        return replace(data, kind="masks", load_mask=self.mask)


@breaks("its sample has masks and no load_mask")
class NoMask(Masked):
    def of_sample(self, data):
        return replace(data, kind="masks")


@breaks("its sample: the mask of 'patch-0' is uint8 (24, 20), not uint8 (20, 24)")
class TurnedMask(Masked):
    def mask(self, item):
        return super().mask(item).T


@breaks("its sample: the mask of 'patch-0' has class 7, which there is not")
class UnknownMask(Masked):
    def mask(self, item):
        return np.full((20, 24), 7, np.uint8)


class Pixels:
    """Resized by repetition to (3, S, S)."""

    spec: ClassVar = {"kind": "toy"}

    def __init__(self, side, train):
        self.side, self.train = side, train
        self.spec = {"kind": "toy", "train": train}

    def __call__(self, image, seed=None):
        pixels = torch.from_numpy(np.ascontiguousarray(image)).float().permute(2, 0, 1) / 255
        small = torch.nn.functional.interpolate(pixels[None], (self.side, self.side))[0]
        return small + (0 if seed is None else 0.01 * seed)


class OwnPixels(Whole):
    """With transforms of its own."""

    kind = Pixels

    def transforms(self, backbone, train, task):
        return self.kind(backbone.image_size, train)


@breaks(
    "its sample has other words or transforms after it has read another set; let read() change nothing and give what "
    "it found with the data, in DomainData.domain"
)
class KeepsCount(Whole):
    sets = 0

    def sample(self, task):
        self.sets += 1
        return super().sample(task)

    def templates(self, task):
        return [f"a photo of a {{}}, number {self.sets}."]


@breaks("its transform for predictions has no spec that JSON holds (...); features are stored by it")
class NoSpec(OwnPixels):
    def transforms(self, backbone, train, task):
        return Pixels(backbone.image_size, train).__call__


class TwicePixels(Pixels):
    def __init__(self, side, train):
        super().__init__(2 * side, train)


@breaks(
    "its sample: item 'patch-0' becomes torch.float32 (3, 16, 16) of an image (20, 24, 3); give float (3, 8, 8) where "
    "image_size is 8"
)
class TwiceAsLarge(OwnPixels):
    kind = TwicePixels


class ChancePixels(Pixels):
    def __call__(self, image, seed=None):
        return super().__call__(image, seed) + (torch.rand(()) if self.train else 0)


@breaks("for training, its transform becomes other pixels the second time; let the seed alone decide")
class ByChance(OwnPixels):
    kind = ChancePixels


class EatingPixels(Pixels):
    def __call__(self, image, seed=None):
        pixels = super().__call__(image, seed)
        image[0] = 0
        return pixels


@breaks("its sample: item 'patch-0': the transform changes the decoded image; work on a copy")
class EatsTheImage(OwnPixels):
    kind = EatingPixels


class SameSpec(Pixels):
    def __init__(self, side, train):
        super().__init__(side, train)
        self.spec = {"kind": "toy"}


@breaks("its transforms for training and for predictions differ, and have the same spec")
class OneSpec(OwnPixels):
    kind = SameSpec


@breaks("its sample, read again, has other items, or in another order; sort what a folder lists")
class Shuffled(Changed):
    times = 0

    def of_sample(self, data):
        self.times += 1
        return data.with_items(data.items[self.times :] + data.items[: self.times])


@breaks("its sample, read again, describes item 'patch-0' differently")
class SaysOtherwise(Changed):
    times = 0

    def of_item(self, index, item):
        return item.with_(group=f"{self.times} {item.group}")

    def of_sample(self, data):
        self.times += 1
        return data


@breaks("its sample: group 'group 0' is in test and train; keep it in one")
class Straddles(Changed):
    def of_item(self, index, item):
        return item.with_(split=("train", "test")[index % 2])


@breaks("its sample: 1 images cannot stay in the split that it gives them, their group or a copy being in another")
class CopyInTest(Changed):
    def of_item(self, index, item):
        item = item.with_(split=("train", "test", "val")[index // 3 % 3], group=None)
        return item.with_(decode=item_of(3).decode, target=Label(0)) if index == 0 else item


@breaks("its sample cannot be split (...); items that are drawn need a decode['digest'] each")
class NoDigest(Changed):
    def of_item(self, index, item):
        return item.with_(decode={"index": index})


@breaks("its sample: picture() of 'patch-0' shows nothing")
class NoPicture(Whole):
    def picture(self, item, load):
        return {}


class FrameByFrame(Pixels):
    def __call__(self, image, seed=None):
        each = super().__call__
        return torch.stack([each(frame, seed) for frame in image]) if image.ndim == 4 else each(image, seed)


class Clips(OwnPixels):
    """Two to four patches per sample."""

    kind = FrameByFrame

    def sample(self, task):
        data = super().sample(task)
        return replace(data, kind="clips", load=lambda item: np.stack([draw(item)] * (2 + item.decode["index"] % 3)))
