"""Projections of both sides, learned on pairs: the formula, the start, and what val chooses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt.adapters.head.pair_projection import PairProjection, projected
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts import PairParts
from vladapt.core.registry import build_adapter, load_adapter

COUNT, WIDTH = 48, 16


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """Texts are images turned by one rotation, with some noise: a linear map finds it."""
    drawn = np.random.default_rng(0)
    images = drawn.normal(size=(COUNT, WIDTH))
    turn = np.linalg.qr(drawn.normal(size=(WIDTH, WIDTH)))[0]
    texts = images @ (0.1 * np.eye(WIDTH) + 0.9 * turn) + 0.1 * drawn.normal(size=(COUNT, WIDTH))
    file = tmp_path_factory.mktemp("stored") / "pairs.npz"
    np.savez(file, image_features=images.astype(np.float32), text_features=texts.astype(np.float32), logit_scale=10.0)
    return load_backbone(f"stored:{file}", "cpu")


class Rows:
    """Pairs of some rows, as trainings see them."""

    fields, further_columns = frozenset(), {}

    def __init__(self, rows):
        self.rows = list(rows)

    def __len__(self):
        return len(self.rows)

    def text(self, field, row, epoch):
        return f"text {self.rows[row]}"

    def image_id(self, row):
        return self.rows[row]


def fitted(towers, rows=range(32), validate=None, **options):
    source = Rows(rows)
    stored = PairParts(
        3.0 * towers.pairs.images[source.rows][:, None],  # its length says nothing
        torch.ones(len(source), 1, dtype=torch.bool),
        {row: place for place, row in enumerate(source.rows)},
    )
    adapter = build_adapter("pair-projection", **{"lr": 1e-4, "epochs": 40, "batch_size": 16, **options})
    report = adapter.fit_pairs(source, towers, features=lambda _: stored, validate=validate)
    return adapter, report


def right(towers, rows):
    """Share of pairs of which the image finds its text."""
    rows = list(rows)
    texts = towers.encode_text([f"text {row}" for row in rows])
    view, images = towers.preprocess(False), towers.base.pairs.images.numpy()
    pixels = torch.stack([view(images[row : row + 1]) for row in rows])
    similarities = towers.encode_image(pixels) @ texts.T
    return float((similarities.argmax(dim=1) == torch.arange(len(rows))).double().mean())


def test_the_formula_by_hand():
    generator = torch.Generator().manual_seed(0)
    unit = F.normalize(torch.randn(5, 8, generator=generator), dim=-1)
    down, up = torch.linalg.qr(torch.randn(8, 3, generator=generator))[0], torch.randn(3, 8, generator=generator)
    expected = unit + 512 / 3 * unit @ down @ up
    assert torch.allclose(projected(unit, down, up), expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    whole = torch.randn(8, 8, generator=generator)
    expected = unit @ (torch.eye(8) + 512 / 8 * whole)
    assert torch.allclose(projected(unit, torch.zeros(0, 0), whole), F.normalize(expected, dim=-1), atol=1e-6)
    assert torch.allclose(projected(unit, torch.zeros(0, 0), torch.zeros(8, 8)), unit), "it starts at zero-shot"


def test_it_learns_what_turns_one_side_into_the_other(towers):
    held_out = range(32, 48)
    start, _ = fitted(towers, lr=1e-12)
    learned, report = fitted(towers, epochs=60)
    assert right(learned.adapted(towers), held_out) > right(start.adapted(towers), held_out) + 0.1
    assert report.history[-1]["loss"] < report.history[0]["loss"] / 2
    assert report.trained_parameters == 2 * WIDTH * WIDTH


def test_the_first_loss_is_clips_on_the_features_as_they_are(towers):
    _, report = fitted(towers, lr=1e-12, epochs=1, batch_size=32)
    logits = 10.0 * towers.pairs.images[:32] @ towers.pairs.texts[:32].T
    own = torch.arange(32)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert report.history[0]["loss"] == pytest.approx(float(expected), abs=1e-5)


def test_a_side_that_is_not_projected_stays(towers):
    for side, other in (("image", "text_up"), ("text", "image_up")):
        adapter, report = fitted(towers, sides=side, epochs=2)
        assert not getattr(adapter, other).any() and getattr(adapter, f"{side}_up").any()
        assert report.trained_parameters == WIDTH * WIDTH


def test_a_rank_leaves_what_is_across_its_directions(towers):
    adapter, _ = fitted(towers, rank=3, epochs=3)
    assert adapter.image_down.shape == (WIDTH, 3) and adapter.image_up.shape == (3, WIDTH)
    assert torch.allclose(adapter.image_down.T @ adapter.image_down, torch.eye(3), atol=1e-5)
    images = towers.pairs.images[:32]
    spread = torch.linalg.eigvalsh(torch.cov(images.T))
    along = torch.diagonal(adapter.image_down.T @ torch.cov(images.T) @ adapter.image_down)
    assert torch.allclose(along.sort().values, spread[-3:], atol=1e-5), "the directions of the largest variance"
    across = F.normalize(images - images @ adapter.image_down @ adapter.image_down.T, dim=-1)
    assert torch.allclose(projected(across, adapter.image_down, adapter.image_up), across, atol=1e-4)


def test_val_keeps_the_best_epoch_and_of_equal_ones_the_later(towers):
    scores = iter([0.1, 0.7, 0.7, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0.1])
    adapter, report = fitted(towers, epochs=20, validate=lambda _: next(scores))
    assert (report.chosen, report.chosen_on, report.val_score) == ({"epochs": 6}, "val", 0.7)
    assert [row["epoch"] for row in report.history if "val_score" in row] == list(range(2, 21, 2))
    last, _ = fitted(towers, epochs=20)
    assert not torch.allclose(adapter.image_up, last.image_up)


def test_val_sees_the_towers_of_the_epoch(towers):
    seen = []
    fitted(towers, epochs=2, validate=lambda each: seen.append(each.encode_text(["text 40"])) or float(len(seen)))
    assert len(seen) == 2 and not torch.equal(seen[0], seen[1])


def test_a_saved_one_finds_the_same(towers, tmp_path):
    adapter, _ = fitted(towers, rank=4, epochs=3)
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"), towers)
    assert isinstance(again, PairProjection)
    texts = ["text 1", "text 40"]
    assert torch.equal(again.adapted(towers).encode_text(texts), adapter.adapted(towers).encode_text(texts))
