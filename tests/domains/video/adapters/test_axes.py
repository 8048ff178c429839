"""Heads of wide features on the axes that few clips span: nothing of what they see is lost."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vladapt import FeatureSet, TextClassifier, build_adapter, load_adapter
from vladapt.core.contracts import PairParts
from vladapt.domains.video.adapters import _pairs
from vladapt.domains.video.adapters._axes import WIDE, FeatureAxes, spanned_axes
from vladapt.domains.video.adapters._frames import average_of_unit
from vladapt.domains.video.adapters._text_tokens import Sentences
from vladapt.domains.video.adapters.clip4clip import SequenceTransformer

WIDTH, FRAMES = WIDE + 64, 4
HEADS = {
    "clip4clip": {"layers": 1},
    "clip4clip:seqLSTM": {"sim_header": "seqLSTM"},
    "clip4clip:tightTransf": {"sim_header": "tightTransf", "layers": 1},
    "action-clip": {"layers": 1},
    "action-clip:LSTM": {"sim_header": "LSTM"},
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips(count, seed=0, width=WIDTH):
    """Two classes that go along a line and back; one clip lacks its last frame."""
    shares = torch.linspace(-1, 1, FRAMES)[None, :, None]
    frames = drawn(width, seed=98) + shares * drawn(width, seed=99) + 0.3 * drawn(2 * count, FRAMES, width, seed=seed)
    mask = torch.ones(2 * count, FRAMES, dtype=torch.bool)
    mask[0, -1] = False
    frames = torch.cat([frames[:count], frames[count:].flip(1)]).masked_fill(~mask[..., None], 0)
    return FeatureSet.of_parts(frames, mask, labels=torch.arange(2).repeat_interleave(count))


def texts(width=WIDTH):
    return TextClassifier(F.normalize(drawn(2, width, seed=3), dim=1), logit_scale=20.0)


def fitted(told, support, classifier, **options):
    adapter = build_adapter(told.partition(":")[0], **{"epochs": 2, **HEADS[told], **options})
    adapter.report = adapter.fit(support, classifier, seed=1)
    return adapter


@given(st.integers(1, 6), st.integers(0, 100))
def test_axes_keep_every_inner_product_of_what_spans_them(count, seed):
    frames, mask = drawn(count, FRAMES, WIDTH, seed=seed), torch.rand(count, FRAMES) > 0.3
    frames, rows = torch.cat([frames, frames.flip(1)]), drawn(3, WIDTH, seed=seed + 1)
    axes = spanned_axes(frames, torch.cat([mask, mask.flip(1)]), rows, 64)
    seen = torch.cat([frames[:count][mask], rows])
    assert axes.shape == (WIDTH, 64) and int((axes.norm(dim=0) > 0.5).sum()) == len(seen)  # a frame twice is one row
    torch.testing.assert_close(seen @ axes @ (seen @ axes).T, seen @ seen.T, rtol=1e-4, atol=1e-2)


def test_wide_features_of_few_clips_alone_are_read_on_axes():
    there = torch.ones(4, FRAMES, dtype=torch.bool)
    assert spanned_axes(drawn(4, FRAMES, WIDE), there, drawn(2, WIDE), 64) is None
    assert spanned_axes(drawn(4, FRAMES, WIDTH), there, drawn(WIDTH // 2, WIDTH, seed=2), 64) is None
    assert spanned_axes(drawn(4, FRAMES, WIDTH), there, drawn(2, WIDTH), 20).shape == (WIDTH, 20)


def test_what_lies_beside_the_axes_goes_past_the_network():
    """A network of no blocks averages the frames exactly, those too that no clip of the fit is like."""
    basis = torch.linalg.qr(drawn(WIDTH, 64))[0]
    network, mask = SequenceTransformer(64, 0, 1, basis), torch.ones(3, FRAMES, dtype=torch.bool)
    torch.nn.init.zeros_(network.frame_position_embeddings.weight)
    frames = drawn(3, FRAMES, WIDTH, seed=5)
    torch.testing.assert_close(network(frames, mask), average_of_unit(frames, mask), rtol=1e-4, atol=1e-5)
    axes = FeatureAxes(basis)
    torch.testing.assert_close(axes.leave(axes.enter(frames)), frames @ basis @ basis.T, rtol=1e-3, atol=1e-4)
    changed = axes.replaced(frames, axes.enter(frames) + 1.0)
    torch.testing.assert_close(
        changed - changed @ basis @ basis.T, frames - frames @ basis @ basis.T, atol=1e-4, rtol=0
    )


@pytest.mark.parametrize("told", HEADS)
def test_a_head_of_wide_features_has_the_weights_of_a_narrow_one(told, tmp_path):
    support, classifier = clips(3), texts()
    wide = fitted(told, support, classifier)
    assert wide.axes.shape == (WIDTH, 64)  # 11 + 11 frames, two texts
    narrow = fitted(told, clips(3, width=64), texts(64))
    assert narrow.axes is None and wide.report.trained_parameters == narrow.report.trained_parameters
    rates = [head.report.history[0]["lr"] for head in (wide, narrow)]
    assert rates[0] == pytest.approx(rates[1] * WIDTH / 64)
    wide.save(tmp_path / "head.safetensors")
    again, new = load_adapter(tmp_path / "head.safetensors"), clips(2, seed=7)
    torch.testing.assert_close(again.logits(new), wide.logits(new))
    assert not torch.allclose(wide.logits(new), fitted(told, support, classifier, epochs=1).logits(new))


def test_new_classes_are_compared_over_the_whole_width():
    """Their texts lie beside the axes, and so do new clips."""
    head = fitted("clip4clip", clips(3), texts())
    others = TextClassifier(F.normalize(drawn(3, WIDTH, seed=11), dim=1), logit_scale=20.0, class_names=("a", "b", "c"))
    new = clips(2, seed=7)
    video = F.normalize(head._net(new.parts, new.parts_mask), dim=-1)
    torch.testing.assert_close(
        head.for_classes(None, ("a", "b", "c"), others).logits(new), 20 * video @ others.weights.T
    )


class WidePairs:
    """Six clips with a sentence each: a `Source`, whose frames and texts are wide."""

    texts, labelled, columns = frozenset({"caption"}), False, {}

    def __len__(self):
        return 6

    def name(self, row):
        return f"clip {row}"

    def text(self, kind, row, epoch):
        return f"sentence {row + 6 * (epoch % 2)}"

    def image_id(self, row):
        return row


class WideTowers:
    """What a head asks of towers whose features are `WIDTH` wide."""

    capabilities, has_text, embed_dim, fingerprint, spec = frozenset(), True, WIDTH, "wide", "wide"
    channels = logit_bias = joint = None
    device, logit_scale = torch.device("cpu"), torch.tensor(20.0)

    def need_texts(self, who=""): ...

    def check_channels(self, who, fits): ...

    def encode_text(self, texts, normalize=True):
        rows = torch.cat([drawn(1, WIDTH, seed=int(text.split()[1])) for text in texts])
        return F.normalize(rows, dim=1) if normalize else rows


def test_pairs_that_are_fewer_than_channels_are_read_on_axes(monkeypatch, tmp_path):
    """Of frames and of every sentence that the training shows; with more pairs the features are read as they are."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    set_of, towers, source = clips(3), WideTowers(), WidePairs()
    parts = PairParts(set_of.parts, set_of.parts_mask, {row: row for row in range(6)})
    adapter = build_adapter("clip4clip", layers=1, epochs=2, batch_size=6)
    report = adapter.fit_pairs(source, towers, features=lambda backbone: parts, seed=1)
    axes = adapter.axes
    assert axes.shape == (WIDTH, 64)
    assert max(row["lr"] for row in report.history) == pytest.approx(adapter.lr * WIDTH / 64)
    sentences = towers.encode_text([source.text("caption", row, epoch) for epoch in (0, 1) for row in range(6)])
    seen = torch.cat([set_of.parts[set_of.parts_mask], sentences])
    torch.testing.assert_close(seen @ axes @ axes.T, seen, atol=1e-3, rtol=1e-3)
    many = build_adapter("clip4clip", epochs=WIDTH // 6 + 1)
    monkeypatch.setattr(WidePairs, "text", lambda self, kind, row, epoch: f"sentence {row + 6 * epoch}")
    many._without_classes(towers)
    assert many._axes_of_pairs(source, towers, parts) is None, "more sentences than channels"


def test_aligned_vectors_on_axes_are_as_wide_as_the_axes(monkeypatch, tmp_path):
    """Whole clips and texts keep the width of features; the index holds both side by side."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr(_pairs, "SentenceReader", OfOneWord)
    set_of, towers = clips(3), WideTowers()
    parts = PairParts(set_of.parts, set_of.parts_mask, {row: row for row in range(6)})
    adapter = build_adapter("clip2video", layers=1, epochs=1, batch_size=6)
    adapter.backbone_needs = frozenset()
    adapter.fit_pairs(WidePairs(), towers, features=lambda backbone: parts, seed=1)
    texts = adapter.text_vectors(towers, ["sentence 0", "sentence 1"])
    vectors = adapter.sample_vectors(parts.parts, parts.mask)
    assert adapter.axes.shape == (WIDTH, 64)
    assert vectors.shape[1] == texts.shape[1] == adapter.found_dim == WIDTH + 64
    scores = adapter.pair_scores(towers, parts.parts, parts.mask, ["sentence 0", "sentence 1"])
    torch.testing.assert_close(vectors @ texts.T, scores, atol=1e-5, rtol=1e-4)


class OfOneWord:
    """A `SentenceReader` of sentences whose only token is the whole."""

    def __init__(self, backbone, tokens, keep=True):
        self.backbone = backbone

    def remember(self, texts): ...

    def __call__(self, texts):
        whole = self.backbone.encode_text(texts)
        return Sentences(whole, whole[:, None], torch.ones(len(whole), 1, dtype=torch.bool))


def test_axes_of_pairs_are_as_many_as_float32_tells_from_rounding():
    frames, texts = drawn(60, FRAMES, 20) @ drawn(20, WIDTH, seed=1), drawn(3, WIDTH, seed=2)
    there = torch.ones(60, FRAMES, dtype=torch.bool)
    assert spanned_axes(frames, there, texts, 1, whole=True).shape == (WIDTH, 23)
    many = drawn(WIDTH // FRAMES, FRAMES, WIDTH)
    assert spanned_axes(many, torch.ones(many.shape[:2], dtype=torch.bool), texts, 1, whole=True) is None
