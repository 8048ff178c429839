"""ReCLIP: the propagation beside the released code and a dense one, its training beside a loop written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from parity_checks.selftraining import reclip

from vladapt import CapabilityError, build_adapter, load_adapter, load_backbone
from vladapt.adapters.selftraining._projected import Propagation, projection_of
from vladapt.core.training.batches import epoch_order


def test_the_propagation_agrees_with_the_released_code(agrees):
    agrees(reclip)


def dense(text, features, projection, k, alpha):
    """(C + N, C) scores by dense matrices, solved exactly."""
    nodes = F.normalize(torch.cat([text, features]).double() @ projection.double(), dim=1)
    near = (nodes @ nodes.T + 1) / 2 * (1 - torch.eye(len(nodes)))
    top = near.topk(k, dim=1)
    kept = torch.zeros_like(near).scatter_(1, top.indices, top.values)
    w = (kept + kept.T) / 2
    d = w.sum(dim=1).rsqrt()
    return torch.linalg.solve(
        torch.eye(len(w)) - alpha * d[:, None] * w * d, torch.eye(len(w))[:, : len(text)].double()
    )


def left_out(text):
    """Onto the left singular vectors of the texts, the first one left out."""
    basis = torch.linalg.svd(text.T.double()).U[:, 1 : len(text)]
    return basis @ basis.T


def test_scores_are_those_of_dense_matrices_and_the_projection_counts(make_task):
    task = make_task(classes=4)
    text, features = F.normalize(task.text.weights, dim=1), task.test.unit
    projection = projection_of(text, 768)
    torch.testing.assert_close(projection.double(), left_out(text), atol=1e-6, rtol=1e-5)
    scores = Propagation(5, 0.9, 500)(text, features, projection).scores
    torch.testing.assert_close(scores.double(), dense(text, features, projection, 5, 0.9), atol=1e-4, rtol=1e-4)
    without = Propagation(5, 0.9, 500)(text, features, torch.eye(text.shape[1])).scores
    assert not torch.allclose(scores, without, atol=1e-2)


def test_labels_alone_are_propagated_on_features(make_task):
    task = make_task(classes=4)
    adapter = build_adapter("reclip", train=False, n_neighbors=5)
    report = adapter.fit(None, task.text, unlabeled=task.test.without_labels())
    spread = Propagation(5, 0.99, 20)(task.text.weights, task.test.unit, projection_of(task.text.weights, 768))
    shares = spread.scores[4:] / spread.scores[4:].sum(dim=1, keepdim=True)
    torch.testing.assert_close(adapter.logits(task.test).softmax(dim=1), shares, atol=1e-4, rtol=1e-4)
    outside = adapter.logits(task.val)  # they were not in the graph
    by_both = task.val.unit @ (task.text.weights + spread.centroids).T / 2 * task.text.logit_scale
    torch.testing.assert_close(outside, by_both, atol=1e-4, rtol=1e-4)
    assert "in one graph" in report.notes[0] and adapter.needs == {"features", "unlabeled"}


def test_it_raises_accuracy_on_real_features(whurs19):
    """All 1,005 images of 19 kinds of scenes read together."""
    for model in ("CLIP_ViTB32", "CLIP_ViTL14"):
        data, text = whurs19(model)
        adapter = build_adapter("reclip", train=False)
        adapter.fit(None, text, unlabeled=data.without_labels())
        right = [
            (logits.argmax(dim=1) == data.labels).double().mean()
            for logits in (text.logits(data.unit), adapter.logits(data))
        ]
        assert right[1] > right[0] + 0.05


@pytest.mark.parametrize("image_loss", ["mean", "released"])
def test_it_trains_as_published(make_unlabelled, image_loss):
    """Beside two models in a plain loop: SGD with momentum 0.9 and weight decay on their norms, labels by dense
    matrices before each epoch, cross-entropy where they agree."""
    world = make_unlabelled(classes=3, shots=4)
    adapter = build_adapter(
        "reclip", lr=0.05, batch_size=5, epochs=2, n_neighbors=4, image_loss=image_loss, iterations=500
    )
    report = world.fit(adapter, seed=3)

    t, v = copy.deepcopy(world.backbone), copy.deepcopy(world.backbone)
    of_t = [p for n, p in t.model.named_parameters() if ".ln_" in f".{n}" and not n.startswith("visual")]
    of_v = [p for n, p in v.model.named_parameters() if ".ln_" in n and n.startswith("visual")]
    steps = [
        torch.optim.SGD([p.requires_grad_() for p in ps], 0.05, momentum=0.9, weight_decay=1e-4) for ps in (of_t, of_v)
    ]
    full, start, scale = world.images.prompts, world.problem.classifier.weights, world.backbone.logit_scale
    for epoch in range(2):
        with torch.no_grad():
            text = torch.stack([F.normalize(t.encode_text(list(texts)).mean(dim=0), dim=0) for texts in full])
            images = v.encode_image(world.pixels)
            scores = [dense(w, x, left_out(w), 4, 0.99) for w, x in ((text, world.unit), (start, images))]
            labels = [score[3:].argmax(dim=1) for score in scores]
            every, nodes = scores[1].argmax(dim=1), torch.cat([start, images])
            centroids = torch.stack([F.normalize(nodes[every == c].mean(dim=0), dim=0) for c in range(3)])
        losses, order = [], epoch_order(12, epoch, 3)
        for rows in order.split(5):
            short = t.encode_text([texts[0] for texts in full])
            agreed = (labels[0][rows] == labels[1][rows]).float()
            ce = [
                F.cross_entropy(scale * world.unit[rows] @ short.T, labels[0][rows], reduction="none"),
                F.cross_entropy(
                    scale * v.encode_image(world.pixels[rows]) @ centroids.T, labels[1][rows], reduction="none"
                ),
            ]
            both = [(each * agreed).sum() / agreed.sum() for each in ce]
            both[1] = both[1] / len(rows) if image_loss == "released" else both[1]
            for loss, step in zip(both, steps):
                step.zero_grad()
                loss.backward()
                step.step()
            losses.append(float(sum(both).detach()))
        assert report.history[epoch]["loss"] == pytest.approx(sum(losses) / 3, rel=1e-3)
        assert 0 < report.history[epoch]["reclip.agreed"] <= 1
    with torch.no_grad():
        short = t.encode_text([texts[0] for texts in full])
        mean = scale * (world.unit @ short.T + v.encode_image(world.pixels) @ centroids.T) / 2
    torch.testing.assert_close(world.logits(adapter), mean, atol=1e-2, rtol=1e-3)
    changed = {name for name, p in t.model.named_parameters() if p.requires_grad}
    changed |= {name for name, p in v.model.named_parameters() if p.requires_grad}
    assert set(adapter.changed) == changed


def test_a_file_gives_the_same_logits(make_unlabelled, small_clip_spec, tmp_path):
    world = make_unlabelled(classes=3, shots=4)
    adapter = build_adapter("reclip", lr=0.05, batch_size=4, epochs=1)
    world.fit(adapter)
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert torch.equal(world.logits(again, fresh), world.logits(adapter))
    with pytest.raises(CapabilityError, match="looks at images by two towers"):
        adapter.logits(world.problem.support)


def test_as_many_epochs_as_published(make_unlabelled):
    assert [build_adapter("reclip")._cut(classes) for classes in (500, 501)] == [768, 250]
    world = make_unlabelled(classes=2, shots=2)
    report = world.fit(build_adapter("reclip", lr=0.05))
    assert report.chosen["epochs"] == 2 and report.chosen["steps"] == 2
