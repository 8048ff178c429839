"""ProtoCLIP: its term beside the reference's numbers, its clusters, and what a resumed run finds."""

import pytest
import torch
from parity_checks.losses import protoclip
from torch import nn
from torch.nn.functional import normalize

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses.protoclip import cluster_means, k_means

SAMPLES, WIDTH = 30, 6
DIMS = {"embed_dim": WIDTH, "num_samples": SAMPLES}


def test_the_term_is_the_references(agrees):
    agrees(protoclip)


def training_set(seed=0):
    """Three groups of images, and other three of texts, that lie far apart."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(SAMPLES) % 3, torch.arange(SAMPLES) // 10
    spread = 0.05 * torch.randn(2, SAMPLES, WIDTH, generator=generator)
    image, text = (normalize(torch.eye(WIDTH)[group + 3 * i] + spread[i], dim=-1) for i, group in enumerate(groups))
    return {"image_features": image, "text_features": text}, groups


def headless(**options):
    """The loss with heads that pass features on, so that its sums can be written out."""
    loss = build_loss("protoclip", DIMS, clusters=3, projection_dim=WIDTH, **options)
    loss.image_head, loss.text_head = nn.Identity(), nn.Identity()
    return loss


def clustered(loss, seed=0):
    features = training_set(seed)[0]
    loss.before_epoch(lambda names: {name: features[name] for name in names})
    return loss


def batch(rows=range(0, SAMPLES, 4)):
    index = torch.tensor(list(rows))
    features = training_set(1)[0]
    return {name: value[index] for name, value in features.items()} | {
        "index": index,
        "logit_scale": torch.tensor(10.0),
    }


def test_clusters_are_the_groups_of_each_side():
    loss = clustered(headless())
    for assignment, group in zip((loss.image_assignment, loss.text_assignment), training_set()[1], strict=True):
        together = assignment[:, None] == assignment
        assert torch.equal(together, group[:, None] == group)


def test_prototypes_are_means_and_translated_ones_means_of_the_other_side():
    loss, (features, _) = clustered(headless()), training_set()
    for k in range(3):
        mine = loss.image_assignment == k
        torch.testing.assert_close(loss.image_prototypes[k], features["image_features"][mine].mean(0))
        torch.testing.assert_close(loss.image_translated[k], features["text_features"][mine].mean(0))
        mine = loss.text_assignment == k
        torch.testing.assert_close(loss.text_translated[k], features["image_features"][mine].mean(0))


@pytest.mark.parametrize("back_translation", [True, False])
def test_the_loss_is_the_equation(back_translation):
    """Chen et al., one sample at a time."""
    loss = clustered(headless(back_translation=back_translation, clip_weight=0.5, proto_weight=0.7))
    out, scale, count = batch(), 1 / 0.07, 8
    total = 0.0
    for student, teacher in (("image", "text"), ("text", "image")):
        prototypes = getattr(loss, f"{teacher}_prototypes")
        targets = getattr(loss, f"{teacher}_translated") if back_translation else prototypes
        for i in range(count):
            label = getattr(loss, f"{teacher}_assignment")[out["index"][i]]
            wanted = torch.stack([prototypes[label] @ p / 0.01 for p in prototypes]).softmax(0)
            chances = torch.stack([scale * out[f"{student}_features"][i] @ t for t in targets]).log_softmax(0)
            total -= (wanted * chances).sum() / count / 2
    cosines = 10.0 * out["image_features"] @ out["text_features"].T
    own = torch.arange(count)
    clip = (torch.nn.functional.cross_entropy(cosines, own) + torch.nn.functional.cross_entropy(cosines.T, own)) / 2
    torch.testing.assert_close(loss(out)["loss"], 0.5 * clip + 0.7 * total)


def test_images_and_texts_may_be_exchanged():
    features = training_set()[0]
    swapped = {"image_features": features["text_features"], "text_features": features["image_features"]}
    ours, theirs = headless(), headless()
    ours.before_epoch(lambda names: features)
    theirs.before_epoch(lambda names: swapped)
    out = batch()
    exchanged = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(ours(out)["loss"], theirs(exchanged)["loss"])


def test_a_sample_is_known_by_its_index():
    loss, out = clustered(headless()), batch()
    other = {**out, "index": (out["index"] + 11) % SAMPLES}
    assert loss(other)["loss"] > loss(out)["loss"] + 0.1


def test_heads_and_their_scale_learn_but_prototypes_do_not():
    torch.manual_seed(0)
    loss = clustered(build_loss("protoclip", DIMS))
    before = {name: value.clone() for name, value in loss.named_buffers() if "proto" in name or "trans" in name}
    loss(batch())["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for n, p in loss.named_parameters() if "0.bias" not in n)
    loss.after_step(None)
    assert all(torch.equal(value, dict(loss.named_buffers())[name]) for name, value in before.items())
    loss.log_scale_proto.data.fill_(9.0)
    loss.after_step(None)
    assert loss.log_scale_proto.exp().item() == pytest.approx(100.0)


def test_both_heads_start_alike():
    loss = build_loss("protoclip", DIMS)
    assert all(torch.equal(a, b) for a, b in zip(loss.image_head.parameters(), loss.text_head.parameters()))


def test_clusters_are_the_same_in_every_run():
    torch.manual_seed(0)
    one = build_loss("protoclip", DIMS, clusters=5)
    other = build_loss("protoclip", DIMS, clusters=5)
    other.load_state_dict(one.state_dict())
    for _ in range(2):
        clustered(one), clustered(other)
        assert all(torch.equal(a, b) for a, b in zip(one.buffers(), other.buffers()))
    assert one.episode == 2


def test_a_resumed_run_goes_on_with_what_it_had():
    torch.manual_seed(0)
    loss = clustered(build_loss("protoclip", DIMS))
    again = build_loss("protoclip", DIMS)
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again(batch())["loss"], loss(batch())["loss"], rtol=0, atol=0)


def test_the_number_of_clusters_follows_the_samples():
    def count(samples, **options):
        return build_loss("protoclip", {**DIMS, "num_samples": samples}, hidden_dim=4, **options).clusters

    assert [count(10), count(30), count(1000), count(300_000)] == [2, 3, 100, 20_000]
    assert count(30, clusters=7) == 7 and count(30, proto_ratio=0.5) == 15


@pytest.mark.parametrize(
    "changed",
    [
        {"clip_weight": 0.5},
        {"proto_weight": 0.5},
        {"teacher_temperature": 0.5},
        {"back_translation": False},
        {"init_scale_proto": 5.0},
        {"warmup_episodes": 1},
    ],
)
def test_each_option_changes_the_loss(changed):
    ours, other = clustered(headless()), clustered(headless(**changed))
    assert not torch.allclose(ours(batch())["loss"], other(batch())["loss"], rtol=1e-5)


def test_options_of_k_means_and_heads_reach_them():
    torch.manual_seed(0)
    features = torch.randn(60, WIDTH)
    dims = {**DIMS, "num_samples": 60}

    def prototypes(**options):
        loss = build_loss("protoclip", dims, clusters=9, projection_dim=WIDTH, **options)
        loss.image_head, loss.text_head = nn.Identity(), nn.Identity()
        loss.before_epoch(lambda names: dict.fromkeys(names, features))
        return loss.image_prototypes

    plain = prototypes()
    for options in (
        {"seed": 1},
        {"kmeans_iterations": 1},
        {"kmeans_restarts": 1, "seed": 3},
        {"kmeans": "minibatch"},
    ):
        assert not torch.allclose(plain, prototypes(**options), atol=1e-4), options
    torch.testing.assert_close(plain, prototypes(kmeans="full"))
    head = build_loss("protoclip", DIMS, hidden_dim=7, projection_dim=5).image_head
    assert (head[0].out_features, head[3].out_features) == (7, 5)


def test_more_restarts_are_never_worse():
    features = torch.randn(80, 3, generator=torch.Generator().manual_seed(0))

    def error(restarts):
        assignment, centres = k_means(features, 8, iterations=50, restarts=restarts, seed=0)
        return (features - centres[assignment]).square().sum()

    assert error(10) <= error(1) + 1e-4


def test_means_of_empty_clusters_are_nothing():
    means = cluster_means(torch.tensor([[1.0, 3.0], [3.0, 5.0]]), torch.tensor([2, 2]), 3)
    assert torch.equal(means, torch.tensor([[0.0, 0.0], [0.0, 0.0], [2.0, 4.0]]))


def test_fewer_distinct_samples_than_clusters_are_no_error(recwarn):
    loss = headless()
    loss.before_epoch(lambda names: dict.fromkeys(names, normalize(torch.ones(SAMPLES, WIDTH), dim=-1)))
    assert torch.isfinite(loss(batch())["loss"]) and not recwarn.list


def test_it_says_what_is_wrong():
    with pytest.raises(CapabilityError, match="no prototypes yet"):
        headless()(batch())
    with pytest.raises(ConfigError, match="made for 30 samples, the training set has 10"):
        headless().before_epoch(lambda names: dict.fromkeys(names, torch.ones(10, WIDTH)))
    with pytest.raises(CapabilityError, match="num_samples"):
        build_loss("protoclip", {"embed_dim": WIDTH})


@pytest.mark.parametrize("clusters", [31, 1])
def test_clusters_that_cannot_be_are_refused(clusters):
    with pytest.raises(ConfigError, match="clusters"):
        build_loss("protoclip", DIMS, clusters=clusters)
