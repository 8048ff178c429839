"""REAL: which names, which images, the training step by step, and what half of the head is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vladapt.adapters.head._class_texts import texts_of_synonyms
from vladapt.adapters.head.real_linear import most_alike
from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.contracts.resources import TextPool
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import adapter_class, build_adapter
from vladapt.core.training.batches import minibatches

QUICK = {"iterations": 20, "warmup": 4}
TEMPLATES = ["a photo of a {}.", "a {} seen from above."]


def fitted(task, resources=None, backbone=None, val=None, text=None, seed=0, **options):
    adapter = build_adapter("real-linear", **{**QUICK, **options})
    adapter.report = adapter.fit(
        task.support, text or task.text, val=val, resources=resources, backbone=backbone, seed=seed
    )
    return adapter


@pytest.fixture(scope="module")
def prompted(make_task):
    """A task with three prompts a class."""
    task = make_task(classes=5, shots=6, noise=1.5)
    generator = torch.Generator().manual_seed(3)
    prompts = task.text.weights[:, None] + 0.2 * torch.randn(5, 3, 16, generator=generator)
    prompts = F.normalize(prompts, dim=-1)
    text = TextClassifier(prompts.mean(dim=1), prototypes=tuple(prompts), class_names=task.text.class_names)
    return replace(task, text=text)


@pytest.fixture(scope="module")
def with_folder(prompted, make_task):
    """The task, and 8 found images a class; captions lie near them, every fourth one is of another class."""
    folder = make_task(classes=5, shots=8, noise=1.5).support
    generator = torch.Generator().manual_seed(4)
    captions = prompted.text.weights[folder.labels] + 0.3 * torch.randn(40, 16, generator=generator)
    captions[::4] = -captions[::4]
    return prompted, folder, TextPool(tuple(map(str, range(40))), captions)


# training -----------------------------------------------------------------------------------------------------------


def plain_training(task, iterations, seed, batch=32, lr=1e-4, decay=0.01, warmup=50, share=0.5):
    """(C, D): torch's own AdamW on explicit batches, the rate written out."""
    prompts = torch.cat(task.text.prototypes)
    classes = torch.arange(5).repeat_interleave(3)
    passes = range(iterations)
    images = [b for e in passes for b in minibatches(len(task.support), batch, e, 2 * seed, drop_last=True)]
    texts = [b for e in passes for b in minibatches(len(prompts), batch, e, 2 * seed + 1, drop_last=True)]
    head = torch.nn.Linear(16, 5, bias=False)
    head.weight.data.copy_(task.text.weights)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=decay)
    for step in range(iterations):
        rate = lr * step / warmup if step else 1e-5
        if step >= warmup:
            rate = lr / 2 * (1 + np.cos(np.pi * (step - warmup) / iterations))
        optimizer.param_groups[0]["lr"] = rate
        x = torch.cat([task.support.unit[images[step]], prompts[texts[step]]])
        y = torch.cat([task.support.labels[images[step]], classes[texts[step]]])
        optimizer.zero_grad()
        F.cross_entropy(100 * head(x), y).backward()
        optimizer.step()
    return share * head.weight.detach() + (1 - share) * task.text.weights


@pytest.mark.parametrize("batch", [4, 32])
def test_training_is_the_published_loop(prompted, batch):
    adapter = fitted(prompted, iterations=90, warmup=50, batch_size=batch, seed=2)
    torch.testing.assert_close(adapter.weights, plain_training(prompted, 90, 2, batch), atol=1e-6, rtol=1e-5)
    scores = 100 * prompted.test.unit @ adapter.weights.T
    torch.testing.assert_close(adapter.logits(prompted.test), scores)


def test_the_published_number_of_iterations(prompted, monkeypatch):
    cls = adapter_class("real-linear")
    asked = []
    monkeypatch.setattr(cls, "_train", lambda self, *given: asked.append(given[3]) or (given[0].zero_shot, []))
    for classes in (5, 19, 5000):
        text = TextClassifier(torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)))
        build_adapter("real-linear").fit(replace(prompted.support, class_names=()), text)
    assert asked == [156, 593, 32000]


def test_prompts_are_learned_from_too(prompted):
    """With images all of one class, only prompts can say what the others look like."""
    one = replace(prompted, support=prompted.support.select(prompted.support.labels == 0))
    adapter = fitted(one, iterations=200, lr=1e-2, trained_share=1.0)
    right = (torch.cat(prompted.text.prototypes) @ adapter.weights.T).argmax(dim=-1) == torch.arange(
        5
    ).repeat_interleave(3)
    assert right.all()
    assert (one.support.unit @ adapter.weights.T).argmax(dim=-1).eq(0).all()


def test_half_of_the_head_is_zero_shot(prompted):
    none, half, all_of_it = (fitted(prompted, trained_share=share, lr=1e-2).weights for share in (0.0, 0.5, 1.0))
    torch.testing.assert_close(none, prompted.text.weights)
    torch.testing.assert_close(half, (none + all_of_it) / 2)


def test_scale_and_bias_of_the_model(prompted):
    text = replace(prompted.text, logit_scale=430.0, logit_bias=-12.0)
    adapter = fitted(prompted, text=text)
    torch.testing.assert_close(adapter.logits(prompted.test), 430 * prompted.test.unit @ adapter.weights.T - 12)
    assert not torch.allclose(adapter.weights, fitted(prompted).weights, atol=1e-6)


@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1},
        {"shots": [1, 7, 2, 16, 5]},
        {"shots": [4, 0, 4, 4, 4]},
        {"classes": 1000, "shots": 1},
    ],
)
def test_hard_shapes(make_task, case):
    task = make_task(**case)
    logits = fitted(task).logits(task.test)
    assert logits.shape == (len(task.test), len(task.text)) and torch.isfinite(logits).all()


def test_history_and_report(prompted):
    report = fitted(prompted, iterations=25, lr=1e-3).report
    assert len(report.history) == 10 and report.history[-1]["loss"] < report.history[0]["loss"]
    assert report.chosen == {"iterations": 25, "images": 30, "prompts": 15} and report.trained_parameters == 80
    assert report.chosen_on == "given as options"
    assert "the 30 shots take the place of retrieved images" in report.notes[0]


# the folder ---------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from([-0.5, -0.1, 0.0, 0.2, 0.2, 0.9])), max_size=30),
    st.none() | st.integers(1, 5),
)
def test_kept_are_the_most_alike_of_each_class(images, per_class):
    labels, similarity = torch.tensor([c for c, _ in images], dtype=torch.long), torch.tensor([s for _, s in images])
    wanted = []
    for c in range(4):
        of_class = [i for i, (label, s) in enumerate(images) if label == c and s >= 0]
        wanted += sorted(of_class, key=lambda i: -images[i][1])[:per_class]
    assert most_alike(similarity, labels, per_class).tolist() == wanted


def test_the_folder_is_learned_from_instead_of_the_shots(with_folder):
    task, folder, captions = with_folder
    resources = {"support_folder": folder, "support_captions": captions}
    similarity = (F.normalize(captions.features, dim=-1) * task.text.weights[folder.labels]).sum(dim=-1)
    kept = most_alike(similarity, folder.labels, 3)
    assert len(kept) == 15 and (similarity[kept] > 0).all()
    adapter = fitted(task, resources, per_class=3)
    alone = fitted(replace(task, support=folder.select(kept)))
    torch.testing.assert_close(adapter.weights, alone.weights)
    assert adapter.report.notes == ["15 of 40 images of the support folder, ranked by their captions"]
    both = fitted(task, resources, per_class=3, use_shots=True)
    assert both.report.chosen["images"] == 45 and both.report.notes[1] == "and the 30 shots"
    assert fitted(task, resources).report.chosen["images"] == int((similarity >= 0).sum()) < 40


def test_without_captions_images_are_ranked_themselves(with_folder):
    task, folder, _ = with_folder
    adapter = fitted(task, {"support_folder": folder}, per_class=3)
    similarity = (folder.unit * task.text.weights[folder.labels]).sum(dim=-1)
    alone = fitted(replace(task, support=folder.select(most_alike(similarity, folder.labels, 3))))
    torch.testing.assert_close(adapter.weights, alone.weights)
    assert "for want of captions" in adapter.report.notes[0]


def test_captions_and_folders_that_do_not_fit(with_folder):
    task, folder, captions = with_folder
    short = TextPool(captions.texts[:3], captions.features[:3])
    with pytest.raises(DataError, match="support captions: 3 of width 16 for 40 images of width 16"):
        fitted(task, {"support_folder": folder, "support_captions": short})
    far = TextPool(captions.texts, -task.text.weights[folder.labels])
    with pytest.raises(DataError, match="by their captions, no image resembles its class"):
        fitted(task, {"support_folder": folder, "support_captions": far})
    with pytest.raises(DataError, match="each image needs one label"):
        fitted(task, {"support_folder": folder.without_labels()})


# synonyms -----------------------------------------------------------------------------------------------------------

SYNONYMS = (
    (("night snake", 2.0), ("hypsiglena", 40.0), ("snake of the night", 3.0)),
    (("tiger", 900.0), ("panthera tigris", 20.0)),
    (("cash machine", 50.0), ("ATM", 300.0)),
)


@pytest.fixture(scope="module")
def named(small_clip):
    """Images near the text features of the most frequent synonyms."""
    names = ("night_snake", "tiger", "cash machine")
    spoken = build_classifier(small_clip, ["hypsiglena", "tiger", "ATM"], TEMPLATES)

    @torch.no_grad()
    def drawn(count, seed):
        labels = torch.arange(3).repeat_interleave(count)
        noise = torch.randn(3 * count, 24, generator=torch.Generator().manual_seed(seed))
        centred = spoken.weights - spoken.weights.mean(dim=0)
        return FeatureSet(spoken.weights[labels] + 0.5 * centred[labels] + 0.02 * noise, labels, names)

    classifier = build_classifier(small_clip, names, TEMPLATES)
    resources = {"synonyms": SYNONYMS, "templates": TEMPLATES}
    return drawn(4, 0), drawn(6, 1), classifier, spoken, resources


def test_classes_are_called_by_their_most_frequent_synonym(named, small_clip):
    support, val, classifier, spoken, resources = named
    adapter = build_adapter("real-linear", trained_share=0.0, **QUICK)
    report = adapter.fit(support, classifier, backbone=small_clip, resources=resources)
    torch.testing.assert_close(adapter.weights, spoken.weights, atol=1e-6, rtol=1e-5)
    assert report.chosen["prompts"] == 6
    assert report.notes[-1] == "classes are called: hypsiglena, tiger, ATM"
    plain = build_adapter("real-linear", trained_share=0.0, **QUICK)
    plain.fit(support, classifier, backbone=small_clip)
    torch.testing.assert_close(plain.weights, classifier.weights)
    right = [(a.logits(val).argmax(dim=-1) == val.labels).float().mean() for a in (adapter, plain)]
    assert right[0] > right[1]


def test_templates_default_to_a_photo(named, small_clip):
    texts = texts_of_synonyms(SYNONYMS, small_clip, None, "cpu")
    photo = build_classifier(small_clip, ["hypsiglena", "tiger", "ATM"], ["a photo of a {}."])
    torch.testing.assert_close(texts.zero_shot, photo.weights)


def test_captions_are_ranked_by_all_synonyms(small_clip):
    texts = texts_of_synonyms(SYNONYMS, small_clip, TEMPLATES, "cpu")
    caption = F.normalize(torch.randn(24, generator=torch.Generator().manual_seed(0)), dim=0)
    for c, names in enumerate(SYNONYMS):
        each = build_classifier(small_clip, [name for name, _ in names], TEMPLATES).weights @ caption
        assert float(texts.ranking[c] @ caption) == pytest.approx(float(each.mean()), abs=1e-6)
    assert texts.classes.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_rarest_classes_are_reported_apart(named, small_clip):
    support, val, classifier, _, resources = named
    adapter = build_adapter("real-linear", **QUICK)
    report = adapter.fit(support, classifier, val=val, backbone=small_clip, resources=resources)
    right = adapter.logits(val).argmax(dim=-1) == val.labels
    rare = 100 * float(right[val.labels == 0].double().mean())  # 45 captions, the fewest
    others = 100 * float(right[val.labels != 0].double().mean())
    assert report.notes[-1] == f"accuracy on val: {rare:.1f} of the 1 rarest classes, {others:.1f} of the others"


def test_synonyms_that_cannot_be_used(named, small_clip):
    support, _, classifier, _, resources = named
    with pytest.raises(CapabilityError, match="give --data and --backbone, or omit the synonyms"):
        build_adapter("real-linear").fit(support, classifier, resources=resources)
    for wrong in (SYNONYMS[:2], (*SYNONYMS[:2], ())):
        with pytest.raises(DataError, match=f"synonyms: {len(wrong)} lists for 3 classes"):
            build_adapter("real-linear").fit(support, classifier, backbone=small_clip, resources={"synonyms": wrong})


# options, saving, real features -------------------------------------------------------------------------------------


def test_the_seed_orders_the_batches(prompted):
    adapter = fitted(prompted, batch_size=4)
    assert torch.equal(adapter.weights, fitted(prompted, batch_size=4).weights)
    assert not torch.equal(adapter.weights, fitted(prompted, batch_size=4, seed=1).weights)


def test_order_of_classes_does_not_matter(prompted):
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = replace(prompted.support, labels=order.argsort()[prompted.support.labels], class_names=())
    text = prompted.text.select(order)
    options = {"batch_size": 30, "iterations": 60, "lr": 1e-3}  # whole passes, so that the order of images is no matter
    first = fitted(prompted, **options)
    other = fitted(replace(prompted, support=turned), text=text, **options)
    torch.testing.assert_close(other.weights, first.weights[order], atol=1e-5, rtol=1e-4)


@pytest.mark.thorough
def test_real_features(data_dir):
    """WHU-RS19, RN50, 4 prompts a class: more shots are better, and one shot beats zero-shot."""
    path = data_dir / "features" / "whurs19_clip" / "whurs19_CLIP_RN50.npz"
    if not path.is_file():
        pytest.skip("the whurs19 features are not there")
    with np.load(path) as stored:
        get = lambda name: torch.from_numpy(stored[name].astype(np.float32))  # noqa: E731
        data = FeatureSet(get("image_features"), torch.from_numpy(stored["labels"]), raw_norms=False)
        text = TextClassifier(get("text_average"), prototypes=tuple(get("text_prompts")[:4].transpose(0, 1)))
    order = torch.randperm(1005, generator=torch.Generator().manual_seed(1))
    rows = [order[data.labels[order] == label] for label in range(19)]
    test = data.select(torch.cat([r[20:] for r in rows]))
    right = []
    for shots in (0, 1, 4, 16):
        adapter = build_adapter("real-linear" if shots else "zero-shot")
        adapter.fit(data.select(torch.cat([r[: shots or 1] for r in rows])), text, seed=1)
        right.append(float((adapter.logits(test).argmax(dim=-1) == test.labels).double().mean()))
    zero_shot, one, four, sixteen = right
    assert zero_shot + 0.06 < one < four < sixteen and sixteen > zero_shot + 0.12
