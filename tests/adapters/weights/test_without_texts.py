"""`full` and `lora` on an image tower alone: a vector per class is trained beside it, from the mean of its images."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision import models

from vladapt import Backbone, Batch, Label, build_adapter, load_adapter
from vladapt.core.errors import CapabilityError


@pytest.fixture(scope="module")
def tower():
    torch.manual_seed(0)
    module = models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=1)
    module.heads = nn.Identity()
    return Backbone.from_module(module, image_size=32, embed_dim=24)


def confused(problem):
    """Labels that say nothing of the colours, so that there is much to learn."""
    items = [replace(item, target=Label(i % 3)) for i, item in enumerate(problem.images.items)]
    labels = torch.arange(len(items)) % 3
    images = replace(problem.images, items=items, train_transform=problem.images.eval_transform)
    return replace(problem, images=images, support=replace(problem.support, labels=labels))


def test_a_step_is_that_of_a_loop_written_out(make_problem, tower):
    problem = confused(make_problem(backbone=tower))
    rate = 1e-3
    adapter = build_adapter("full", epochs=1, batch_size=12, lr=rate, weight_decay=0.0, warmup=0.0)
    problem.fit(adapter)

    pixels, labels = problem.pixels(), problem.support.labels
    module = trained_by_hand(tower)
    unit = F.normalize(problem.support.features, dim=1)
    rows = F.normalize(torch.stack([unit[labels == each].mean(dim=0) for each in range(3)]), dim=1).requires_grad_()
    start = rows.detach().clone()
    step = torch.optim.AdamW([*module.parameters(), rows], lr=rate, weight_decay=0.0)
    cosines = F.normalize(module(pixels), dim=1) @ F.normalize(rows, dim=1).T
    F.cross_entropy(100 * cosines, labels).backward()
    step.step()

    assert (rows - start).abs().max() > rate / 2
    torch.testing.assert_close(adapter.weights, rows.detach(), atol=1e-5, rtol=1e-4)
    trained = adapter.adapted(tower).encode_image(pixels, normalize=False)
    torch.testing.assert_close(trained, module(pixels).detach(), atol=1e-4, rtol=1e-3)


def trained_by_hand(tower):
    """The module of the tower, to be trained by hand."""
    module = models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=1)
    module.heads = nn.Identity()
    module.load_state_dict(tower.model.visual.trunk.state_dict())
    return module.eval()


@pytest.mark.parametrize("name", ["full", "lora"])
def test_what_was_learned_is_kept_and_names_images(make_problem, tower, name, tmp_path):
    problem = confused(make_problem(backbone=tower))
    adapter = build_adapter(name, epochs=20, lr=3e-3, batch_size=6)
    report = problem.fit(adapter)
    assert report.history[-1]["loss"] < 0.7 * report.history[0]["loss"]
    held = Batch(pixels=problem.pixels())
    with torch.no_grad():
        logits = adapter.logits(held)
    adapter.save(tmp_path / "adapter.safetensors")
    again = load_adapter(tmp_path / "adapter.safetensors", tower)
    again.adapted(tower)
    with torch.no_grad():
        torch.testing.assert_close(again.logits(held), logits, atol=1e-4, rtol=1e-4)
    with pytest.raises(CapabilityError, match="name other classes"):
        adapter.for_classes(tower, ["another"])


def test_several_labels_have_a_vector_for_and_one_against(make_problem, tower):
    problem = make_problem(backbone=tower, labels=lambda of: (float(of == 0), float(of > 0), float(of == 2)))
    adapter = build_adapter("full", epochs=8, lr=3e-3, batch_size=6)
    problem.fit(adapter)
    assert adapter.weights.shape == adapter.negative.shape == (3, 24)
    with torch.no_grad():
        logits = adapter.logits(Batch(pixels=problem.pixels()))
    assert ((logits > 0).float() == problem.support.labels).float().mean() > 0.9


def test_the_vectors_of_the_best_epoch_are_kept(make_problem, tower, monkeypatch):
    problem, seen = make_problem(backbone=tower), []

    def score(self, scores, towers, images):
        seen.append(scores.rows.detach().clone())
        return -float(len(seen))

    adapter = build_adapter("full", epochs=3, lr=3e-3, batch_size=6, select="best_val")
    monkeypatch.setattr(type(adapter), "_val_score", score)
    assert problem.fit(adapter).chosen["epoch"] == 1
    assert torch.equal(adapter.weights, seen[0]) and not torch.equal(seen[0], seen[-1])


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("full", {"loss": "clip"}, "clip needs texts, and the backbone is an image tower alone"),
        ("full", {"loss": "cross-entropy=1,clip=0.5"}, "clip needs texts"),
        ("lora", {"towers": "text"}, "option towers='text' of adapter 'lora' learns from class texts"),
    ],
)
def test_what_needs_texts_is_refused_in_one_line(make_problem, tower, name, options, says):
    with pytest.raises(CapabilityError, match=says):
        make_problem(backbone=tower).fit(build_adapter(name, epochs=1, batch_size=6, **options))
