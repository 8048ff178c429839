"""ActionCLIP end to end: the published loss, a step of towers and head written out, what a test clip is scored by."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from drawn_bars import FRAMES
from test_heads_with_towers import plainly

from vladapt import Batch, load_adapter
from vladapt.core.errors import CapabilityError
from vladapt.core.training.tower_passes import image_features
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video.adapters.action_clip_towers import ActionClipTowers, SharedClassLoss

RATE, DECAY, EPS = 1e-3, 0.1, 1e-8
GIVEN = {
    "lr": RATE,
    "weight_decay": DECAY,
    "layers": 1,
    "class_weight": "none",
    "training": {"decayed": "all", "eps": EPS},
}


def in_loops(scores, labels):
    """KL divergences of rows and of columns from ten times who shares a class, an entry at a time."""
    total = 0
    for matrix in (scores, scores.T):
        for row in range(len(labels)):
            wanted = torch.tensor([10.0 * (labels[row] == other) for other in labels]).softmax(0)
            chosen = matrix[row].log_softmax(0)
            total = total + sum(w * (w.log() - c) for w, c in zip(wanted, chosen))
    return total / (2 * len(labels))


@pytest.fixture(scope="module")
def fitted(problem):
    """One step on clips without augmentation, and what hung on the tower before."""
    started, made = [], ActionClipTowers._joint

    def joint(self, backbone):
        started.append(made(self, backbone))
        return deepcopy(started[0])

    view = plainly(problem.backbone)
    plain = replace(problem, images=replace(problem.images, train_transform=view))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ActionClipTowers, "_joint", joint)
        adapter = plain.fit("action-clip-towers", **GIVEN)
    return adapter, started[0]


def test_the_loss_has_the_published_numbers(parity):
    ref = parity.reference("actionclip")
    leaves = ref.leaves({"image": "image", "text": "text"})
    out = {f"{name}_features": F.normalize(leaf, dim=-1) for name, leaf in leaves.items()}
    out |= {"labels": ref["labels"], "logit_scale": torch.tensor(float(ref.setting("scale")))}
    loss = SharedClassLoss()(out)["loss"]
    assert ref.check(loss, "loss").share <= 1
    scores = out["logit_scale"] * out["image_features"] @ out["text_features"].T
    torch.testing.assert_close(loss, in_loops(scores, ref["labels"].tolist()), rtol=1e-4, atol=1e-5)


def test_a_step_is_written_out(fitted, problem):
    """AdamW's first, on all weights: the head at ten times the rate of both towers; of each clip one text."""
    adapter, joint = fitted
    towers = copy_of(problem.backbone)
    towers.model.requires_grad_(True)
    own = deepcopy(joint).requires_grad_(True)
    own.attach(towers)
    items = problem.images.items
    clips, labels = problem.clips(items), [item.class_label() for item in items]
    said = [problem.classifier.texts[label][row % 2] for row, label in enumerate(labels)]
    frames = problem.backbone.encode_image(clips.flatten(0, 1), normalize=False).unflatten(0, (4, FRAMES))
    torch.testing.assert_close(
        own.head(frames, torch.ones(4, FRAMES, dtype=torch.bool)), towers.encode_image(clips, normalize=False)
    )
    scores = towers.logit_scale * image_features(towers, clips) @ towers.encode_text(said).T
    loss = in_loops(scores, labels)
    assert adapter.report.history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    loss.backward()
    moved = {"joint": 0, "visual": 0, "transformer": 0, "logit_scale": 0, "others": 0}
    for name, parameter in towers.model.named_parameters():
        if parameter.grad is None:
            continue
        rate = RATE * (10 if name.startswith("joint.") else 1)
        strong = parameter.grad.abs() > 1e-5
        step = parameter.grad / (parameter.grad.abs() + EPS) + DECAY * parameter
        wanted = (parameter - rate * step).detach()
        torch.testing.assert_close(adapter.changed[name][strong], wanted[strong], atol=2e-5, rtol=1e-3)
        part = name.split(".")[0]
        moved[part if part in moved else "others"] += int(strong.sum())
    assert moved["logit_scale"] == 1 and min(moved[name] for name in ("joint", "visual", "transformer")) > 100, moved


def test_a_clip_has_the_mean_of_its_probabilities_by_each_template(fitted, problem, tmp_path):
    """From pixels and from features, saved and read again; other classes are named by the same templates."""
    adapter, _ = fitted
    adapter.save(tmp_path / "made.safetensors")
    loaded = load_adapter(tmp_path / "made.safetensors", problem.backbone)
    towers, clips = loaded.adapted(problem.backbone), problem.clips(problem.images.val)
    unit = image_features(towers, clips)
    by_each = [
        (towers.logit_scale * unit @ towers.encode_text([texts[place] for texts in problem.classifier.texts]).T)
        for place in range(2)
    ]
    wanted = torch.stack([scores.softmax(dim=1) for scores in by_each]).mean(dim=0)
    torch.testing.assert_close(loaded.logits(Batch(pixels=clips)).exp(), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(loaded.logits(unit), loaded.logits(Batch(pixels=clips)), rtol=1e-4, atol=1e-5)
    other = loaded.for_classes(problem.backbone, ("left", "up", "right"))
    assert other.logits(unit).shape == (2, 3) and other.of_templates.shape == (2, 3, 16)


def test_it_names_classes_alone(problem):
    with pytest.raises(CapabilityError, match="learns from labelled clips, not from pairs"):
        ActionClipTowers().fit_pairs(None, problem.backbone)
