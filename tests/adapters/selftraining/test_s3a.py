"""S3A: votes and assignments beside the released code, its training beside a loop written out."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks.selftraining import s3a
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans

from vladapt import CapabilityError, build_adapter, build_classifier, load_adapter, load_backbone
from vladapt.adapters.selftraining._words import broad_vocabulary, votes_of, words_of_clusters
from vladapt.core.training.batches import epoch_order

WORDS = ("wall", "sky", "leaf", "colour 1", "stone", "a red thing", "sand", "night")
SAID = {"wall": ("a flat wall", "a wall of a house"), "sky": ("the blue sky",), "Colour 2": ("a second colour",)}


def test_it_agrees_with_the_released_code(agrees):
    agrees(s3a)


@pytest.fixture(scope="module")
def world(make_unlabelled):
    return make_unlabelled(classes=3, shots=4)


def words_of(features, text, clusters, rounds=3):
    """Vote, assign and move, one image at a time; the words, and what voted last."""
    nearest = (features @ text.T).argmax(dim=1)
    for _ in range(rounds):
        groups = sorted(set(clusters.tolist()))
        votes = np.zeros((len(groups), len(text)))
        for row, group in enumerate(groups):
            for image in (clusters == group).nonzero().flatten().tolist():
                votes[row, nearest[image]] += 1 / int((clusters == group).sum())
        taken = torch.tensor(sorted(linear_sum_assignment(votes, maximize=True)[1]))
        words = taken[(features @ text[taken].T).argmax(dim=1)]
        voted, clusters = clusters, words
    return words, voted, votes, groups


def told_apart(towers, features, text, words, voted, votes, groups):
    """Words after the sentences of the three first candidates of each cluster."""
    said, scores = {name.casefold(): some for name, some in SAID.items()}, np.zeros_like(votes)
    for row, group in enumerate(groups):
        candidates = torch.from_numpy(votes[row]).float().topk(3).indices.tolist()
        told = {
            c: said.get(words[c].casefold(), [f"a {words[c]} square.", f"a picture of {words[c]}.", words[c]])
            for c in candidates
        }
        owners = [c for c in candidates for _ in told[c]]
        with torch.no_grad():
            encoded = towers.encode_text([sentence for c in candidates for sentence in told[c]])
        for image in (voted == group).nonzero().flatten().tolist():
            for named in (features[image] @ encoded.T).topk(min(3, len(owners))).indices.tolist():
                scores[row, owners[named]] += 1 / len(told[owners[named]])
    taken = torch.tensor(sorted(linear_sum_assignment(scores, maximize=True)[1]))
    return taken[(features @ text[taken].T).argmax(dim=1)]


@pytest.mark.parametrize("prompts", [None, SAID], ids=["votes alone", "realigned"])
def test_it_trains_as_published(world, prompts):
    options = {"lr": 0.5, "batch_size": 5, "epochs": 3, "fixed_epochs": 1, "layer_decay": 0.5, "confidence": 0.2}
    adapter, plain = build_adapter("s3a", **options), world.images.eval_transform
    images = replace(world.images, train_transform=lambda decoded, seed: plain(decoded[:, ::-1].copy()))
    given = {"vocabulary": WORDS} | ({} if prompts is None else {"realign_prompts": prompts})
    report = world.fit(adapter, seed=3, images=images, **given)

    student, teacher = copy.deepcopy(world.backbone), copy.deepcopy(world.backbone)
    words = [*WORDS, "colour 0", "colour 2"]
    text = build_classifier(world.backbone, words, world.images.templates).weights
    clusters = torch.from_numpy(KMeans(3, n_init=10, random_state=3).fit_predict(world.unit.numpy()))
    labels, *last = words_of(world.unit, text, clusters)
    labels = labels if prompts is None else told_apart(student, world.unit, text, words, *last)
    first, groups = labels, []
    for name, p in student.model.named_parameters():
        if name.startswith("visual."):
            factor = 0.5 if "resblocks" in name else 1.0 if ".ln_post" in name or name == "visual.proj" else 0.25
            decay = 0.05 if p.ndim > 1 and "bias" not in name else 0.0
            groups.append({"params": [p.requires_grad_()], "factor": factor, "weight_decay": decay})
    optimizer, step = torch.optim.AdamW(groups), 0
    pixels, strong, scale = world.pixels, world.pixels.flip(-1), float(world.backbone.logit_scale)
    for epoch in range(3):
        losses = []
        if epoch >= 1:
            with torch.no_grad():
                labels = words_of(teacher.encode_image(pixels), text, first)[0]
        for picked in epoch_order(12, epoch, 3)[:10].split(5):
            top, end = 0.5 * 5 / 256, 1e-6 * 5 / 256
            for group in optimizer.param_groups:
                group["lr"] = group["factor"] * (end + (top - end) * (1 + math.cos(math.pi * step / 6)) / 2)
            with torch.no_grad():
                sure, named = (scale * teacher.encode_image(pixels[picked]) @ text.T).softmax(dim=1).max(dim=1)
            logits, keep = scale * student.encode_image(strong[picked]) @ text.T, sure > 0.2
            loss = 0.25 * F.cross_entropy(logits, labels[picked])
            loss = loss + F.cross_entropy(logits[keep], named[keep]) if keep.any() else loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            share = 0.999 + (0.9998 - 0.999) * step / 2000
            with torch.no_grad():
                for mean, now in zip(teacher.model.parameters(), student.model.parameters()):
                    mean.lerp_(now, 1 - share)
            losses.append(float(loss.detach()))
            step += 1
        assert report.history[epoch]["loss"] == pytest.approx(sum(losses) / 2, rel=2e-3)
    with torch.no_grad():
        expected = scale * student.encode_image(pixels) @ world.problem.classifier.weights.T
    torch.testing.assert_close(world.logits(adapter), expected, atol=3e-2, rtol=1e-2)
    assert all(name.startswith("visual.") for name in adapter.changed)
    said = [note for note in report.notes if "words found among 10" in note]
    assert said and any("no --resource realign-prompts" in note for note in report.notes) == (prompts is None)


def test_votes_are_shares_of_a_cluster():
    """So that a small cluster is as sure of its word as a large one."""
    votes = votes_of(torch.tensor([0, 0, 0, 0, 1]), torch.tensor([[0], [0], [0], [1], [0]]), 3)
    assert votes.tolist() == [[0.75, 0.25, 0.0], [1.0, 0.0, 0.0]]


def test_no_two_clusters_have_one_word():
    votes = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.0, 0.2]])
    assert words_of_clusters(votes).tolist() == [0, 2]  # in all 1.1, and 0.9 where the second has the first word


def test_a_file_gives_the_same_logits_and_too_few_words_are_refused(world, small_clip_spec, tmp_path):
    adapter = build_adapter("s3a", lr=0.5, batch_size=4, epochs=1, clusters=2)
    world.fit(adapter, vocabulary=WORDS)
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert torch.equal(world.logits(again, fresh), world.logits(adapter))
    with pytest.raises(CapabilityError, match="7 clusters for 5 words"):
        world.fit(build_adapter("s3a", clusters=7), vocabulary=("one", "two"))


def test_the_broad_vocabulary_is_that_of_imagenet_21k():
    words = broad_vocabulary()
    assert len(words) == len(set(words)) > 15_000 and {"tabby", "box coat"} <= set(words)
    assert not any("," in word for word in words)
