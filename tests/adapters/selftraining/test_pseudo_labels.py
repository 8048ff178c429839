"""FPL, IFPL and GRIP: which images are labelled, and trainings written out for each kind of prompts and of learning."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.pseudo_labels import few, growing

from vladapt import CapabilityError, ConfigError, build_adapter
from vladapt.adapters.selftraining._leaderboards import top_k_per_class
from vladapt.adapters.selftraining._prompted_models import MultimodalPrompts, Rows
from vladapt.core.prompts.context import PromptLearner
from vladapt.core.training.batches import epoch_batches
from vladapt.core.training.tower_weights import copy_of

QUICK = {"epochs": 3, "warmup": 1, "n_ctx": 2, "batch_size": 4, "pseudo_shots": 2}


@pytest.fixture(scope="module")
def problem(make_problem):
    """Six labelled images of three classes; nine others are without labels."""
    return make_problem(shots=2)


@pytest.fixture(scope="module")
def others(make_problem, problem):
    """The unlabelled images: features and items."""
    made = make_problem(shots=[4, 3, 2])
    items = [item.with_(id=f"other-{i}", target=None) for i, item in enumerate(made.images.items)]
    features = replace(made.support.without_labels(), ids=tuple(item.id for item in items))
    return features, replace(made.images, items=items)


def fitted(problem, others, name="fpl", support=True, **options):
    adapter = build_adapter(name, **{**QUICK, **options})
    given = {"images": problem.images if support else replace(problem.images, items=()), "unlabeled_images": others[1]}
    shots = problem.support if support else None
    how = {"unlabeled": others[0], "backbone": problem.backbone, "resources": given, "seed": 3}
    adapter.report = adapter.fit(shots, problem.classifier, **how)
    return adapter


def trained(parameters, logits_of, rows, targets, loss_of, lr=0.1, epochs=3):
    """SGD with momentum and decay, a rate per epoch: 0, then a cosine to 0 over the other two; the loop written out."""
    momenta = [torch.zeros_like(p) for p in parameters]
    batches = epoch_batches(len(rows), 4, 3)
    for epoch in range(epochs):
        rate = 0.0 if epoch == 0 else lr * (1 + math.cos(math.pi * (epoch - 1) / 2)) / 2
        for index in batches(epoch):
            loss = loss_of(logits_of(rows[index]), targets[index], index)
            for p, m, g in zip(parameters, momenta, torch.autograd.grad(loss, parameters)):
                m.mul_(0.9).add_(g + 0.1 * p.detach())
                p.data.sub_(rate * m)


def pseudo_labelled(problem, others, k=2, of=slice(None)):
    """Rows behind the six labelled ones, and labels."""
    logits = problem.classifier.logits(others[0].unit)[:, of]
    rows, labels = top_k_per_class(logits.softmax(dim=1), k)
    return rows, labels


def test_agrees_with_the_reference(agrees):
    agrees(few)
    agrees(growing)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_an_image_that_its_likeliest_class_turns_down_is_offered_to_all_others(k):
    """The boards as published, image by image; many images of one class, so that its board is full."""
    generator = torch.Generator().manual_seed(k)
    probabilities = (torch.randn(60, 4, generator=generator) + torch.tensor([2.0, 0.0, 0.0, 0.0])).softmax(dim=1)
    boards = {name: [] for name in range(4)}
    cascaded = 0
    for image, row in enumerate(probabilities.tolist()):
        best = max(range(4), key=row.__getitem__)

        def goes_in(name, row=row, image=image):
            board = boards[name]
            if len(board) < k:
                board.append((row[name], image))
            elif row[name] > board[-1][0]:
                boards[name] = sorted([*board, (row[name], image)], reverse=True)[:k]
            else:
                return False
            return True

        if not goes_in(best):
            cascaded += sum([goes_in(name) for name in sorted(range(4), key=row.__getitem__) if name != best])
    rows, labels = top_k_per_class(probabilities, k)
    assert list(zip(labels.tolist(), rows.tolist())) == [
        (n, image) for n, board in boards.items() for _, image in board
    ]
    assert cascaded > 0


def test_the_published_settings_are_the_defaults():
    adapter = build_adapter("grip")
    published = {"epochs": 150, "batch_size": 16, "weight_decay": 0.1, "warmup": 5, "rounds": 10, "hold_out": 0.2}
    assert published.items() <= adapter.options.items()
    assert build_adapter("fpl").pseudo_shots == build_adapter("ifpl").pseudo_shots == 16


def test_textual_prompts_of_semi_supervised_learning_train_as_the_loop_written_out(problem, others):
    adapter = fitted(problem, others)
    learner = PromptLearner(problem.backbone, problem.support.class_names, n_ctx=2, seed=3)
    places, labels = pseudo_labelled(problem, others)
    rows, targets = torch.cat([places + 6, torch.arange(6)]), torch.cat([labels, problem.support.labels])
    unit, gamma = torch.cat([problem.support.unit, others[0].unit]), len(labels) / 6

    def loss_of(logits, targets, index):
        given, guessed = index >= len(places), index < len(places)
        parts = [F.cross_entropy(logits[of], targets[of]) if of.any() else 0.0 for of in (given, guessed)]
        return gamma * parts[0] + parts[1]

    def logits_of(rows):
        return problem.classifier.logit_scale * unit[rows] @ learner.encode().T

    trained([learner.ctx], logits_of, rows, targets, loss_of)
    expected = learner.encode().detach()
    torch.testing.assert_close(adapter.text_features, expected, atol=1e-4, rtol=1e-4)
    start = PromptLearner(problem.backbone, problem.support.class_names, n_ctx=2, seed=3).encode()
    assert (expected - start).abs().max() > 1e-2
    assert adapter.adapted(problem.backbone) is problem.backbone
    assert adapter.report.chosen["learning"] == "semi-supervised"


def test_visual_prompts_of_unsupervised_learning_train_as_the_loop_written_out(problem, others):
    adapter = fitted(problem, others, support=False, prompts="visual")
    towers = copy_of(problem.backbone)
    start = 32**-0.5 * torch.randn(2, 32, generator=torch.Generator().manual_seed(3))
    tokens = towers.attach_prompts(image=start[None]).image.tokens
    rows, labels = pseudo_labelled(problem, others)
    pixels = problem.pixels(others[1].items)

    def logits_of(rows):
        return problem.classifier.logit_scale * towers.encode_image(pixels[rows]) @ problem.classifier.weights.T

    trained([tokens], logits_of, rows, labels, lambda logits, targets, index: F.cross_entropy(logits, targets))
    torch.testing.assert_close(adapter.tokens, tokens.detach()[0], atol=1e-4, rtol=1e-4)
    assert (adapter.tokens - start).abs().max() > 1e-2
    torch.testing.assert_close(adapter.text_features, problem.classifier.weights)
    made = adapter.adapted(problem.backbone)
    assert made.fingerprint != problem.backbone.fingerprint and made is adapter.adapted(problem.backbone)
    with torch.no_grad():
        torch.testing.assert_close(
            adapter.logits(made.encode_image(pixels)), logits_of(torch.arange(9)), atol=1e-2, rtol=1e-3
        )


def test_multimodal_prompts_go_through_one_block_pair_by_pair(problem, others):
    """The i-th of the text and the i-th of the image attend to each other; the block written out."""
    learner = PromptLearner(problem.backbone, problem.support.class_names, n_ctx=2, seed=3)
    rows = Rows.of(others[0].unit, others[1], others[1].items)
    model = MultimodalPrompts(rows, problem.classifier, problem.backbone, learner, 3)
    made = copy.deepcopy(model.block)
    pairs = zip(model.text_in(model.of_text), model.image_in(model.of_image))
    texts, images = [], []
    for pair in pairs:
        x = torch.stack(pair)  # (2, 128)
        query, key, value = F.linear(made.norm1(x), made.self_attn.in_proj_weight, made.self_attn.in_proj_bias).chunk(
            3, 1
        )
        x = x + made.self_attn.out_proj((query @ key.T / 128**0.5).softmax(dim=1) @ value)
        hidden = made.linear1(made.norm2(x))
        x = x + made.linear2(hidden * torch.sigmoid(1.702 * hidden))
        texts.append(model.text_out(x[0]))
        images.append(model.image_out(x[1]))
    torch.testing.assert_close(model.tokens(), torch.stack(images), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.text(), learner.encode_each(torch.stack(texts)[None])[0], atol=1e-5, rtol=1e-4)
    assert model.of_image.abs().max() <= (6 / (3 * 8**2 + 32)) ** 0.5

    adapter = fitted(problem, others, support=False, prompts="multimodal")
    parameters, start = list(model.parameters()), model.text().detach()
    assert adapter.report.trained_parameters == sum(p.numel() for p in parameters)
    places, labels = pseudo_labelled(problem, others)
    trained(parameters, model.logits, places, labels, lambda logits, of, index: F.cross_entropy(logits, of), lr=0.01)
    torch.testing.assert_close(adapter.tokens, model.tokens().detach(), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(adapter.text_features, model.text().detach(), atol=1e-4, rtol=1e-3)
    assert (adapter.text_features - start).abs().max() > 1e-3


def test_unseen_classes_alone_are_guessed_in_transductive_zero_shot(problem, others):
    """Class 1 is seen: its two images have labels; others are guessed among classes 0 and 2."""
    adapter = fitted(problem, others, learning="transductive-zero-shot", seen=("colour 1",))
    learner = PromptLearner(problem.backbone, problem.support.class_names, n_ctx=2, seed=3)
    places, labels = pseudo_labelled(problem, others, of=[0, 2])
    seen = (problem.support.labels == 1).nonzero().flatten()
    rows = torch.cat([places + 2, torch.arange(2)])
    targets = torch.cat([torch.tensor([0, 2])[labels], torch.ones(2, dtype=torch.int64)])
    unit, weight = torch.cat([problem.support.unit[seen], others[0].unit]), 2 / len(labels)

    def loss_of(logits, targets, index):
        known = targets == 1
        parts = [F.cross_entropy(logits[of], targets[of]) if of.any() else 0.0 for of in (known, ~known)]
        return parts[0] + weight * parts[1]

    def logits_of(rows):
        return problem.classifier.logit_scale * unit[rows] @ learner.encode().T

    trained([learner.ctx], logits_of, rows, targets, loss_of)
    torch.testing.assert_close(adapter.text_features, learner.encode().detach(), atol=1e-4, rtol=1e-4)


def test_each_round_is_labelled_by_the_model_of_the_one_before(problem, others):
    """Two rounds of IFPL are FPL on labels that FPL gives."""
    first = fitted(problem, others, support=False)
    assert torch.equal(fitted(problem, others, "ifpl", support=False, rounds=1).text_features, first.text_features)
    relabelled = replace(problem.classifier, weights=first.text_features, raw=None, prototypes=None)
    told = replace(problem, classifier=relabelled)
    second = fitted(problem, others, "ifpl", support=False, rounds=2)
    torch.testing.assert_close(second.text_features, fitted(told, others, support=False).text_features)
    assert {row["round"] for row in second.report.history} == {1, 2}
    assert not torch.allclose(second.text_features, first.text_features, atol=1e-4)


def test_rounds_of_grip_have_more_and_more_labels(problem, others, monkeypatch):
    from vladapt.adapters.selftraining import _pseudo_labels

    counts = []
    monkeypatch.setattr(_pseudo_labels, "top_k_per_class", lambda p, k: counts.append(k) or top_k_per_class(p, k))
    options = {name: value for name, value in QUICK.items() if name != "pseudo_shots"}
    adapter = build_adapter("grip", **{**options, "epochs": 1}, rounds=3)
    adapter.fit(None, problem.classifier, unlabeled=others[0], backbone=problem.backbone)
    assert counts == [1, 2, 3]


def test_with_ten_labels_per_class_the_best_epoch_on_a_fifth_is_kept(problem, others):
    report = fitted(problem, others, support=False, pseudo_shots=10, epochs=6).report
    scores = [row["val_score"] for row in report.history]
    assert report.chosen["epoch"] == scores.index(max(scores)) + 1
    assert "val_score" not in fitted(problem, others, support=False).report.history[0]


def test_labelled_images_are_not_among_the_unlabelled(problem, others):
    """A train split as a whole, of which six images are the shots."""
    both = replace(
        others[0],
        features=torch.cat([problem.support.features, others[0].features]),
        ids=(*problem.support.ids, *others[0].ids),
    )
    images = replace(others[1], items=[*problem.images.items, *others[1].items])
    for prompts in ("textual", "visual"):
        made = fitted(problem, (both, images), prompts=prompts)
        alone = fitted(problem, others, prompts=prompts)
        assert torch.equal(made.text_features, alone.text_features)
        assert prompts == "textual" or torch.equal(made.tokens, alone.tokens)
    with pytest.raises(CapabilityError, match="all 6 are shots; give fewer --shots"):
        fitted(problem, (problem.support.without_labels(), problem.images))


def test_what_cannot_be_learned_is_refused_in_one_line(problem, others):
    with pytest.raises(CapabilityError, match="reads labels, and no image has one"):
        fitted(problem, others, support=False, learning="semi-supervised")
    with pytest.raises(ConfigError, match="no class is left without labels"):
        fitted(problem, others, learning="transductive-zero-shot")
    with pytest.raises(ConfigError, match="option seen: no class 'colour 7'"):
        fitted(problem, others, learning="transductive-zero-shot", seen=("colour 7",))
    with pytest.raises(CapabilityError, match="unlabelled images, and there are none"):
        fitted(problem, (others[0].select([]), others[1]), support=False)
