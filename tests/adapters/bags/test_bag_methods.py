"""Methods that learn from samples of many parts with one label: the public code, closed forms, and drawn bags."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks import bags as parity

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.adapters.bags import trans_mil
from vladapt.adapters.bags._bag_head import drawn_parts, spaced_parts, speaking_parts, weighted_sum
from vladapt.adapters.bags.clam import ClamBag, smooth_svm
from vladapt.adapters.bags.trans_mil import NystromAttention, TransBag, pseudo_inverse
from vladapt.core.contracts.features import Batch, bags_of
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.training import GatedAttention

WIDTH = 12


@pytest.mark.parametrize("comparison", parity.GROUPS, ids=lambda each: each.pattern)
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


def drawn(count: int, seed: int, parts: int = 30, shift: float = 6.0) -> FeatureSet:
    """Bags of which one part in `parts`, shifted along the first axis, makes the second class; their means say
    little."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(count, parts, WIDTH)).astype(np.float32)
    labels = np.arange(count) % 2
    rows[labels == 1, rng.integers(0, parts, count)[labels == 1], 0] += shift
    return FeatureSet.of_parts(torch.from_numpy(rows), labels=torch.from_numpy(labels), class_names=("no", "yes"))


@pytest.fixture(scope="module")
def sets():
    return {
        name: drawn(count, seed) for seed, (name, count) in enumerate({"train": 80, "val": 40, "test": 100}.items())
    }


TEXTS = TextClassifier(torch.eye(2, WIDTH), class_names=("no", "yes"))


def accuracy(adapter, test: FeatureSet) -> float:
    return float((adapter.predict(test) == test.labels).double().mean())


@pytest.mark.thorough(but=("abmil",))
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("abmil", {"epochs": 15, "lr": 2e-3, "embed": 0, "hidden": 16}),
        ("clam", {"epochs": 15, "lr": 2e-3, "instances": 2}),
    ],
)
def test_a_part_in_thirty_decides_and_the_mean_does_not_tell(sets, name, options):
    adapter = build_adapter(name, **options)
    report = adapter.fit(sets["train"], TEXTS, val=sets["val"], seed=0)
    losses = [-row["val_score"] for row in report.history]
    assert report.chosen["epoch"] == int(np.argmin(losses)) + 1 and report.trained_parameters > 0
    assert accuracy(adapter, sets["test"]) >= 0.9
    means = build_adapter("linear-probe", C=1.0)
    means.fit(sets["train"].without_parts(), TEXTS, seed=0)
    assert accuracy(means, sets["test"]) <= 0.75


@pytest.mark.thorough
def test_tokens_that_look_at_each_other_learn_what_all_parts_show():
    """To find one part among many takes TransMIL more bags than a test has."""
    sets = {name: drawn(60, seed, parts=5, shift=0.0) for seed, name in enumerate(("train", "test"))}
    for name, bags in sets.items():
        bags.parts[bags.labels == 1, :, 0] += 2.0
        sets[name] = FeatureSet.of_parts(bags.parts, labels=bags.labels, class_names=bags.class_names)
    adapter = build_adapter("trans-mil", epochs=8, lr=2e-3, width=16, bags_per_step=1)
    report = adapter.fit(sets["train"], TEXTS, seed=0)
    assert report.chosen == {"epoch": 8} and accuracy(adapter, sets["test"]) >= 0.85


def test_top_k_finds_the_part_that_shows_a_class_and_the_mean_of_all_does_not(sets):
    texts = TextClassifier(F.normalize(torch.tensor([[0.0] * WIDTH, [1.0, *[0.0] * (WIDTH - 1)]]) + 1e-6, dim=1))
    scores = {}
    for k in (1, 0):
        adapter = build_adapter("top-k", k=k)
        adapter.fit(None, texts)
        scores[k] = adapter.logits(sets["test"])[:, 1]
        unit = sets["test"].unit_parts @ texts.weights.T
        wanted = (unit.amax(dim=1) if k else unit.mean(dim=1)) * texts.logit_scale
        assert torch.allclose(adapter.logits(sets["test"]), wanted, atol=1e-4)
    yes = sets["test"].labels == 1
    above = {k: float((of[yes][:, None] > of[~yes]).double().mean()) for k, of in scores.items()}
    assert above[1] > 0.95 and above[0] < 0.8


def test_attention_is_what_the_equations_say_and_the_order_of_parts_changes_nothing():
    torch.manual_seed(0)
    attention, bag = GatedAttention(WIDTH, 5, gated=True), torch.randn(9, WIDTH)
    v, u, w = attention.attend, attention.gate, attention.score
    hidden = torch.tanh(bag @ v.weight.T + v.bias) * torch.sigmoid(bag @ u.weight.T + u.bias)
    weights, pooled = weighted_sum(attention(bag), bag)
    expected = F.softmax((hidden @ w.weight.T + w.bias)[:, 0], dim=0)
    assert torch.allclose(weights[0], expected) and torch.allclose(pooled[0], (expected[:, None] * bag).sum(dim=0))
    assert torch.allclose(weighted_sum(attention(bag.flip(0)), bag.flip(0))[1], pooled, atol=1e-6)
    assert not torch.allclose(GatedAttention(WIDTH, 5, gated=False)(bag), attention(bag))


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        ("abmil", {}, 1),
        ("clam", {}, 1),
        ("clam", {"branches": True}, 2),
        ("top-k", {"k": 3}, 2),
        ("top-k", {"k": 0}, 2),
    ],
)
def test_attention_of_a_bag_is_what_its_answer_is_made_of(sets, name, options, rows):
    adapter, bag = build_adapter(name, **options, **({} if name == "top-k" else {"epochs": 1})), sets["test"].bags[3]
    with pytest.raises(CapabilityError, match="is not fitted"):
        adapter.attention(bag)
    adapter.fit(sets["train"].select(list(range(8))), TEXTS, seed=0)
    weights = adapter.attention(bag)
    assert weights.shape == (rows, len(bag)) and torch.allclose(weights.sum(dim=1), torch.ones(rows), atol=1e-5)
    if name == "top-k":
        scores = (weights @ F.normalize(bag, dim=1) * TEXTS.weights).sum(dim=1) * TEXTS.logit_scale
        chosen = weights.count_nonzero(dim=1).tolist()
        assert chosen == [options["k"] or len(bag)] * 2
    else:
        network = adapter._net
        pooled = weights @ F.relu(network.embed(bag))  # (K, W)
        rows_of = network.classifier
        scores = (pooled * rows_of.weight).sum(dim=1) + rows_of.bias
        if name == "abmil":  # one output for two classes
            scores = torch.cat([torch.zeros(1), scores])
    assert torch.allclose(adapter.logits(sets["test"].select([3]))[0], scores, atol=1e-4)


@pytest.mark.parametrize(("name", "options"), [("abmil", {}), ("clam", {}), ("clam", {"branches": True})])
def test_weights_of_parts_are_their_shares_in_what_speaks_for_the_class(sets, name, options):
    """What the parts add to the logits of the average part makes up the answer; those above 0 are the weights."""
    adapter, bag = build_adapter(name, **options, epochs=1), sets["test"].bags[3]
    with pytest.raises(CapabilityError, match="is not fitted"):
        adapter.deciding(bag)
    adapter.fit(sets["train"].select(list(range(8))), TEXTS, seed=0)
    network, shown = adapter._net, adapter.deciding(bag)
    instances, bias = F.relu(network.embed(bag)), network.classifier.bias
    attended = weighted_sum(network.attention(instances), instances)[0]  # (K, T)
    added = attended * ((instances - instances.mean(dim=0)) @ network.classifier.weight.T).T
    logits = network.classifier.weight @ instances.mean(dim=0) + bias + added.sum(dim=1)
    if name == "abmil":  # one output for two classes
        logits, added = torch.cat([torch.zeros(1), logits]), torch.cat([torch.zeros_like(added), added])
    assert torch.allclose(adapter.logits(sets["test"].select([3]))[0], logits, atol=1e-4)
    for called in range(2):
        margin = (added[called] - added[1 - called]).clamp(min=0)
        assert torch.allclose(shown[called], margin / margin.sum(), atol=1e-5)
    assert not (shown[0] * shown[1]).any(), "no part speaks for both"
    assert torch.equal(adapter.deciding(bag[:1]), torch.ones(2, 1)), "a part alone is the average part"


def test_a_part_that_another_branch_attends_to_because_it_speaks_against_its_class_is_shown(sets):
    """The branch of the second class attends to any part; that of the first to the one that takes its class away."""
    instances, rows = torch.tensor([[0.0, 1.0], [9.0, 1.0], [0.0, 1.2]]), torch.tensor([[-1.0, 0.0], [0.0, 1.0]])
    attended = torch.tensor([[0.01, 0.98, 0.01], [0.1, 0.1, 0.8]])
    assert attended[1].argmax() == 2 and speaking_parts(attended, instances, rows)[1].argmax() == 1
    alone = speaking_parts(attended, instances, rows, compared=False)
    assert alone[1].argmax() == 2, "with several labels a class is told by its own branch"


def test_a_method_without_weights_of_parts_shows_none(sets):
    adapter = build_adapter("trans-mil", epochs=1, width=8)
    adapter.fit(sets["train"].select(list(range(4))), TEXTS, seed=0)
    assert adapter.attention(sets["test"].bags[0]) is None


def test_parts_teach_as_the_bag_is_labelled_also_where_they_are_few():
    torch.manual_seed(0)
    network, bag = ClamBag(WIDTH, 3, 8, 4, branches=True, dropout=0.0), torch.randn(7, WIDTH)
    logits, weights, instances = network.read(bag)
    assert logits.shape == (3,) and torch.allclose(weights.sum(dim=1), torch.ones(3))
    order = weights[1].argsort(descending=True)
    ((scores, targets),) = network.instance_scores(weights, instances, 1, 2, subtyping=False)
    chosen, own = torch.cat([order[:2], order.flip(0)[:2]]), network.instance_classifiers
    assert torch.allclose(scores, instances[chosen] @ own.weight[2:4].T + own.bias[2:4])
    assert targets.tolist() == [1, 1, 0, 0]
    every = network.instance_scores(weights, instances, 1, 2, subtyping=True)
    assert [targets.tolist() for _, targets in every] == [[0, 0], [1, 1, 0, 0], [0, 0]]
    few = network.instance_scores(weights[:, :1], instances[:1], 1, 8, subtyping=False)
    assert few[0][1].tolist() == [1, 0]  # the only part is the most and the least attended


def test_the_smooth_svm_loss_is_its_formula():
    scores, targets = torch.tensor([[2.0, -1.0], [0.5, 0.5], [-3.0, 4.0]]), torch.tensor([0, 1, 0])
    own = scores.gather(1, targets[:, None])[:, 0]
    other = scores.gather(1, 1 - targets[:, None])[:, 0]
    assert torch.allclose(smooth_svm(scores, targets), torch.log1p(torch.exp(other + 1 - own)).mean())


def test_the_pseudo_inverse_is_one_and_attention_over_as_many_landmarks_is_exact(monkeypatch):
    torch.manual_seed(0)
    rows = torch.randn(2, 6, 6, dtype=torch.float64).softmax(dim=-1) + torch.eye(6)
    assert torch.allclose(pseudo_inverse(rows, rounds=12), torch.linalg.pinv(rows), atol=1e-6)
    monkeypatch.setattr(trans_mil, "pseudo_inverse", partial(pseudo_inverse, rounds=20))
    attention, tokens = NystromAttention(16, 2, 5, dropout=0.0).double().eval(), torch.randn(1, 5, 16).double()
    q, k, v = attention.to_qkv(tokens).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    exact = (q @ k.mT * 8**-0.5).softmax(dim=-1) @ v + attention.res_conv(v)
    assert torch.allclose(attention(tokens), attention.to_out(exact.transpose(1, 2).flatten(2)), atol=1e-9)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 17])
def test_bags_of_any_size_fill_a_square_and_some_parts_are_drawn_of_large_ones(count):
    torch.manual_seed(0)
    network, bag = TransBag(WIDTH, 3, 16, dropout=0.0).eval(), torch.randn(count, WIDTH)
    assert network(bag).isfinite().all()
    assert len(spaced_parts(bag, 4)) == min(4, count) and torch.equal(spaced_parts(bag, 4)[-1], bag[-1])
    draws = [drawn_parts(bag, 4) for _ in range(8)]
    assert {len(draw) for draw in draws} == {min(4, count)}
    assert any(not torch.equal(draw, draws[0]) for draw in draws) == (count > 4)


def test_bags_are_the_parts_that_are_there():
    parts = torch.arange(12.0).view(2, 3, 2)
    mask = torch.tensor([[True, True, False], [True, False, True]])
    first, second = bags_of(parts, mask)
    assert torch.equal(first, parts[0, :2]) and first.data_ptr() == parts.data_ptr()
    assert torch.equal(second, parts[1, [0, 2]])
    assert len(Batch(parts=parts, parts_mask=mask).bags) == 2
    with pytest.raises(CapabilityError, match="have no parts"):
        _ = Batch(features=parts[:, 0]).bags


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="give a multiple of 8"):
        build_adapter("trans-mil", width=20)
    with pytest.raises(CapabilityError, match="needs the parts of each sample"):
        build_adapter("abmil").fit(drawn(4, 0).without_parts(), TEXTS)


def test_transmil_takes_no_weight_decay_from_biases_and_norms_and_mixes_none_into_the_gradient():
    matrix, bias = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((2, 2), (2,)))
    optimizer = build_adapter("trans-mil", lr=0.1, weight_decay=0.5)._optimizer([matrix, bias])
    for each in (matrix, bias):
        each.grad = torch.zeros_like(each)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((2, 2), 0.95)) and torch.equal(bias, torch.ones(2))


def test_classes_that_are_drawn_as_often_are_not_weighed_again(sets):
    """Else the rare class would be preferred: its share would be taken out twice."""
    unequal = sets["train"].select([*range(0, 40, 2), 1, 3, 5])
    networks = []
    for weight in ("balanced", "none"):
        adapter = build_adapter("clam", epochs=1, balanced_sampling=True, class_weight=weight)
        adapter.fit(unequal, TEXTS, seed=0)
        networks.append(adapter.network)
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def test_a_training_ends_where_val_gets_no_better(sets):
    adapter = build_adapter("abmil", epochs=40, lr=0.05, patience=2, embed=0)
    history = adapter.fit(sets["train"], TEXTS, val=sets["val"], seed=0).history
    best = int(np.argmax([row["val_score"] for row in history]))
    assert len(history) == best + 1 + 2 < 40
