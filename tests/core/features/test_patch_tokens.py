"""Patch tokens of images and parts: stored once, a portion at a time, and read as they are asked for."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from tiny_tower import DIM, Frames, TinyTower, clip_set, drawn_clip

from vladapt.core.contracts.features import PATCH_TOKENS, FeatureSet
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.features import patch_tokens
from vladapt.core.features.batches import Extras, batches
from vladapt.core.features.patch_tokens import PatchTokenReader, bytes_in_words
from vladapt.core.features.store import FeatureStore
from vladapt.core.judgements.part_order import reversed_parts
from vladapt.core.runtime import shards

GRID = (2, 4)
LENGTHS = (3, 2, 0, 3, 1)
"""Frames of each sample; 0: an image as it is."""


class Patchy(TinyTower):
    """Each patch of 4 x 2 pixels has the mean of its three channels, and more of what they are."""

    def __init__(self):
        super().__init__("patchy")
        self.capabilities = frozenset({"image_tokens"})

    def image_tokens(self, pixels):
        self.images += len(pixels)
        cells = pixels.unfold(2, 4, 4).unfold(3, 2, 2).flatten(4)  # (B, 3, 2, 4, 8)
        tokens = torch.cat([cells.mean(dim=-1), cells.amax(dim=-1)[:, :2]], dim=1)  # (B, D, h, w)
        return tokens.flatten(2).transpose(1, 2), GRID


class Lines:
    """A reporter that remembers."""

    def __init__(self):
        self.lines = []

    def info(self, line):
        self.lines.append(line)

    def task(self, title):
        from contextlib import nullcontext

        return nullcontext(lambda done, total: self.lines.append((done, total)))


@pytest.fixture
def reader(tmp_path):
    return PatchTokenReader(clip_set(LENGTHS), Patchy(), Frames(), FeatureStore(tmp_path), batch_size=4)


def wanted(reader, row, parts):
    """(parts, h, w, D) of one sample, by the tower itself."""
    length = LENGTHS[row]
    decoded = drawn_clip(row, length) if length else reader.data.load(reader.data.items[row])
    pixels = Frames()(decoded)
    tokens = Patchy().image_tokens(pixels if length else pixels[None])[0].view(max(1, length), *GRID, DIM)
    return torch.cat([tokens, torch.zeros(parts - len(tokens), *GRID, DIM)])


def test_they_are_those_of_the_tower_and_are_encoded_once(reader):
    said = Lines()
    assert reader.fill(reader.data.items, said) == len(LENGTHS)
    encoded = reader.backbone.images
    tokens = reader.read(reader.data.items)
    assert tokens.shape == (5, 3, *GRID, DIM) and reader.backbone.images == encoded
    for row, own in enumerate(tokens):
        torch.testing.assert_close(own, wanted(reader, row, 3))
    assert reader.fill(reader.data.items, silent := Lines()) == 0 and not silent.lines
    assert reader.store.patch_grid(TinyGone()) == GRID


class TinyGone(Patchy):
    """The same tower, whose model must not run."""

    def image_tokens(self, pixels):
        raise AssertionError("the tower was run")


def test_a_line_says_how_large_they_will_be(reader):
    """Of what is not stored: parts are counted where a sample was met before."""
    items, said = reader.data.items, Lines()
    reader.store.get_or_compute(reader.data, items, TinyTower("other"), Frames(), parts=True)
    reader.fill(items[:1], said)
    reader.fill(items, said)
    patches = "2 x 4 patches of 5 numbers each"
    assert said.lines[0] == f"Patch tokens of 3 images or parts, {patches}: 0.00 MB to store in {reader.store.root}"
    told = [line for line in said.lines if isinstance(line, str)]
    assert len(told) == 2 and told[1].startswith("Patch tokens of 7 images or parts")
    assert bytes_in_words(41_300_000_000) == "41.30 GB" and bytes_in_words(3_150_000) == "3.15 MB"


def test_few_are_held_while_they_are_encoded(reader, monkeypatch):
    """And few written at once, whatever their number."""
    monkeypatch.setattr(patch_tokens, "AT_ONCE_BYTES", 1)
    monkeypatch.setattr(shards, "SHARD_BYTES", 2 * 8 * DIM * 4)
    largest, held = [], reader.store.get_or_compute

    def watched(data, items, *given, **how):
        largest.append(len(items))
        return held(data, items, *given, **how)

    monkeypatch.setattr(reader.store, "get_or_compute", watched)
    reader.fill(reader.data.items, said := Lines())
    assert largest == [1] * 5 and said.lines[-1] == (5, 5)
    monkeypatch.setattr(patch_tokens, "AT_ONCE_BYTES", 10**9)
    assert reader.fill(reader.data.items, Lines()) == 0 and largest == [1] * 5
    torch.testing.assert_close(reader.read(reader.data.items)[3], wanted(reader, 3, 3))


@pytest.mark.parametrize("held", [10**9, 0])
def test_rows_of_a_set_are_read_as_they_are_asked_for(reader, monkeypatch, held):
    """Held if they are few; else some at a time from the rows of checked shards; a damaged one is made anew."""
    monkeypatch.setattr(patch_tokens, "HELD_BYTES", held)
    monkeypatch.setattr(shards, "WIDE_ROW", 1)
    reader.fill(reader.data.items, Lines())
    tokens = reader.of(reader.data.items, 4)
    assert len(tokens) == 5 and tokens.grid == GRID and tokens.dim == DIM
    for index in ([3, 1], [1, 1, 4], [2]):
        rows = tokens.rows(torch.tensor(index))
        assert torch.equal(rows, torch.stack([wanted(reader, row, 4) for row in index]))
    assert (tokens._held is None) == (held == 0)
    folder = reader.store.folder_of(next(space for space in reader.store._folders if PATCH_TOKENS in space))
    assert folder._checked
    for shard in folder.path.glob("*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:40])
    assert torch.equal(tokens.rows(torch.tensor([0]))[0], wanted(reader, 0, 4))


def test_a_batch_has_them_in_the_order_of_its_parts(reader):
    """Of shuffled or reversed samples too."""
    items = reader.data.items
    parts = torch.randn(5, 3, DIM)
    mask = torch.arange(3) < torch.tensor(LENGTHS).clamp(min=1)[:, None]
    samples = FeatureSet.of_parts(parts.masked_fill(~mask[..., None], 0), mask, ids=tuple(item.id for item in items))
    adapter = SimpleNamespace(at_predict={"parts", "patch_tokens"}, name="any")
    for seen in (samples, reversed_parts(samples), reversed_parts(reversed_parts(samples)).select([4, 0, 1])):
        batch = next(batches(adapter, seen, Extras(items, patches=reader.read)))
        for row, name in enumerate(seen.ids):
            whole, count = wanted(reader, int(name), 3), max(1, LENGTHS[int(name)])
            turned = torch.cat([whole[:count].flip(0), whole[count:]]) if seen.parts_order is not None else whole
            torch.testing.assert_close(batch.patch_tokens[row], whole if len(seen) == 3 else turned)
    with pytest.raises(CapabilityError, match="needs the patch tokens of the images, which are not there; give images"):
        next(batches(adapter, samples, Extras(items)))


def test_what_cannot_be_stored_is_refused_before_it_is_encoded(reader, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    with pytest.raises(DataError, match=r"patch tokens need 0.00 MB, and 0.00 MB are free; free some"):
        reader.fill(reader.data.items, Lines())
    reader.backbone = TinyTower()
    with pytest.raises(CapabilityError, match="has no one feature per patch or grid cell"):
        reader.fill(reader.data.items, Lines())


def test_where_nothing_is_kept_they_are_encoded_at_each_call(reader):
    reader.store = FeatureStore(keep=False)
    before = reader.backbone.images
    first, again = (reader.read(reader.data.items) for _ in range(2))
    assert torch.equal(first, again) and reader.backbone.images - before >= 2 * 10
