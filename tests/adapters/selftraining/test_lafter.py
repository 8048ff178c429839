"""LaFTer: the classifier learned on texts, and the training on strong views, beside loops written out."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from vladapt import build_adapter
from vladapt.adapters.selftraining import lafter
from vladapt.core.backbones.two_tower import TwoTower
from vladapt.core.training.batches import epoch_order


@pytest.fixture(scope="module")
def world(make_unlabelled):
    return make_unlabelled(classes=3, shots=4)


@pytest.fixture(scope="module")
def fitted(world):
    """On mirrored images in place of strong views; the tokens that it starts from are kept."""
    started, attach_prompts = [], TwoTower.attach_prompts

    def attach(backbone, image):
        started.append(image.clone())
        return attach_prompts(backbone, image=image)

    def mirrored(views, scale, blur):
        assert (scale, blur) == ((0.2, 1.0), 1.0)
        return lambda decoded, seed: world.images.eval_transform(decoded[:, ::-1].copy())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lafter.Views, "strong", mirrored)
        patch.setattr(TwoTower, "attach_prompts", attach)
        adapter = build_adapter("lafter", lr=0.01, batch_size=5, epochs=2, n_ctx=3, text_steps=30)
        adapter.report = world.fit(adapter, seed=3)
    adapter.started = started[0]
    return adapter


def head_of_texts(world, lr=0.01):
    """The text classifier by a loop: noise anew in each step, smoothed labels, AdamW."""
    texts = torch.cat(list(world.problem.classifier.prototypes))
    labels = torch.tensor([c for c, of in enumerate(world.problem.classifier.prototypes) for _ in of])
    torch.manual_seed(3)
    head = torch.nn.Linear(texts.shape[1], 3, bias=False)
    optimizer = torch.optim.AdamW([head.weight], lr=lr, weight_decay=0.01)
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        scores = (texts + 0.1 * torch.randn(texts.shape, generator=generator)) @ head.weight.T
        smooth = torch.full((len(texts), 3), 0.1 / 3)
        smooth[torch.arange(len(texts)), labels] += 0.9
        optimizer.zero_grad()
        (-(smooth * scores.log_softmax(dim=1)).sum(dim=1).mean()).backward()
        optimizer.step()
    return head.weight.detach()


def test_the_published_settings_are_the_defaults():
    adapter = build_adapter("lafter")
    published = {"lr": 5e-4, "weight_decay": 0.01, "batch_size": 50, "n_ctx": 50}
    assert published.items() <= adapter.options.items() and adapter.default_epochs == 50
    assert lafter.STEPS == 400 and lafter.PUBLISHED_STEPS["oxford_flowers"] == 600


def test_the_training_is_the_loop_written_out(world, fitted):
    rows = head_of_texts(world)
    labels = (world.unit @ rows.T).argmax(dim=1)
    towers = copy.deepcopy(world.backbone)
    tokens = towers.attach_prompts(image=fitted.started).image.tokens
    named = towers.model.named_parameters()
    norms = {n: p.requires_grad_() for n, p in named if n.startswith("visual.") and ".ln_" in n}
    rows = rows.clone().requires_grad_()
    decayed = [tokens, rows, *(p for n, p in norms.items() if "bias" not in n)]
    groups = [{"params": decayed, "weight_decay": 0.01}]
    groups += [{"params": [p for n, p in norms.items() if "bias" in n], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=0.01)
    strong = world.pixels.flip(-1)
    for epoch in range(2):
        for picked in epoch_order(12, epoch, 3).split(5):
            scores = towers.encode_image(strong[picked], normalize=False) @ rows.T
            loss = F.cross_entropy(scores, labels[picked], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(fitted.weights, rows.detach(), atol=2e-3, rtol=1e-2)
    made = fitted.adapted(world.backbone).model.state_dict()
    assert set(fitted.changed) == {*norms, "prompts.image.tokens"}
    for name in fitted.changed:
        torch.testing.assert_close(made[name], towers.model.state_dict()[name], atol=2e-3, rtol=1e-2)
    assert (fitted.weights - head_of_texts(world)).abs().max() > 0.02  # the student's classifier trains on
    expected = F.linear(towers.encode_image(world.pixels, normalize=False), rows).detach()
    torch.testing.assert_close(world.logits(fitted), expected, atol=2e-2, rtol=2e-2)


def test_tokens_start_uniform_within_the_published_bound(world, fitted):
    bound = (6 / (3 * 16**2 + fitted.started.shape[-1])) ** 0.5
    assert 0.8 * bound < fitted.started.abs().max() <= bound


def test_the_report_says_what_labelled_the_images(fitted):
    assert any("a classifier learned on texts alone" in note for note in fitted.report.notes)
    assert fitted.report.chosen["text steps"] == 30


def test_sentences_that_describe_the_classes_are_texts_too(world):
    sentences = (("a red tile", "red"), ("green",), ("a blue tile",))
    classifier = world.problem.classifier
    texts = lafter._texts(classifier, sentences, world.backbone)
    assert [len(of) for of in texts] == [5, 4, 4]
    torch.testing.assert_close(texts[0][3:], world.backbone.encode_text(["a red tile", "red"]))
    assert torch.equal(texts[1][:3], classifier.prototypes[1])
