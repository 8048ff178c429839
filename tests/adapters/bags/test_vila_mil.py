"""ViLa-MIL: its texts, magnifications, context and rates; `test_bag_methods` compares it with the public code."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

from vladapt import FeatureSet, TextClassifier, build_adapter
from vladapt.adapters.bags.vila_mil import PrototypesAndTexts, class_sentences
from vladapt.core.contracts.bags import Bags
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.prompts import PromptLearner
from vladapt.core.testing.towers import small_clip
from vladapt.core.testing.world import world_of

WIDTH = 12
NAMES = ("no", "yes")
TEXTS = TextClassifier(torch.eye(2, WIDTH), class_names=NAMES)
QUICK = {"epochs": 4, "lr": 3e-3, "prototypes": 4, "hidden": 8}


@dataclass
class ScaledBag:
    """A bag in memory, at several magnifications, the finest first."""

    rows: tuple[torch.Tensor, ...]

    attributes = {}  # noqa: RUF012
    counts = property(lambda self: tuple(map(len, self.rows)))
    dim = property(lambda self: self.rows[0].shape[1])

    def read(self, scale):
        return self.rows[scale]

    def coords(self, scale):
        return None


def scaled(count: int, seed: int, shows: int, scales: int = 2) -> FeatureSet:
    """Bags of 6 parts at the coarsest magnification and twice as many at each finer one, of which one alone shows the
    class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2
    sizes = [6 * 2**power for power in reversed(range(scales))]
    rows = [[torch.randn(size, WIDTH, generator=generator) for size in sizes] for _ in range(count)]
    for bag, label in zip(rows, labels):
        bag[shows][:, 0] += 3.0 * (2 * label - 1)
    bags = Bags([ScaledBag(tuple(bag)) for bag in rows])
    return FeatureSet.of_bags(bags, labels=labels, class_names=NAMES)


def accuracy(adapter, test: FeatureSet) -> float:
    return float((adapter.predict(test) == test.labels).double().mean())


@pytest.mark.parametrize("shows", [0, 1], ids=["fine", "coarse"])
def test_either_magnification_may_show_the_class(shows):
    adapter = build_adapter("vila-mil", **QUICK)
    report = adapter.fit(scaled(30, 0, shows), TEXTS, seed=0)
    assert accuracy(adapter, scaled(30, 1, shows)) >= 0.9
    assert "no text tower: class vectors stay as stored" in report.notes[-1]
    with pytest.raises(CapabilityError, match="fitted on bags of 2 magnifications, these have 1"):
        adapter.logits(scaled(2, 2, 0, scales=1))


def test_logits_are_sums_over_magnifications_of_what_the_equations_say():
    torch.manual_seed(0)
    network, scales, texts = PrototypesAndTexts(WIDTH, 5, 3), (torch.randn(9, WIDTH), torch.randn(4, WIDTH)), []
    total = torch.zeros(2)

    def attended(module, queries, rows):
        q, k, v = (
            each @ w.T + b
            for each, w, b in zip((queries, rows, rows), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3))
        )
        return (q @ k.T / WIDTH**0.5).softmax(dim=1), v, module.out_proj

    for bag in scales:
        texts.append(torch.randn(2, WIDTH))
        shares, v, out = attended(network.to_prototypes, network.prototypes, bag)
        instances = F.layer_norm(network.prototypes + out(shares @ v), (WIDTH,), network.norm.weight, network.norm.bias)
        counts = network.attention(instances)[:, 0].softmax(dim=0)
        assert torch.allclose(network.weights(bag)[0], counts @ shares, atol=1e-6)
        mixed, v, out = attended(network.to_texts, texts[-1], torch.cat([instances, bag]))
        total = total + (texts[-1] + out(mixed @ v)) @ (counts @ instances)
    assert torch.allclose(network(scales, texts), total, atol=1e-5)


def test_attention_to_parts_adds_up_to_one():
    train = scaled(8, 0, 0)
    adapter = build_adapter("vila-mil", **QUICK)
    adapter.fit(train, TEXTS, seed=0)
    weights = adapter.attention(train.bags[0])
    assert weights.shape == (1, 12) and float(weights.sum()) == pytest.approx(1, abs=1e-5)


def test_sentences_name_the_magnification_and_what_is_seen_there():
    fine, coarse = class_sentences(("lung",), 2, [["solid nests.", " clear cytoplasm"]])
    assert fine == ["A WSI of lung at high resolution with visually descriptive characteristics of clear cytoplasm"]
    assert coarse == ["A WSI of lung at low resolution with visually descriptive characteristics of solid nests"]
    fine, coarse = class_sentences(("lung",), 2, [["nests"]])
    assert fine[0].endswith("high resolution with visually descriptive characteristics of nests")
    assert coarse[0] == fine[0].replace("high", "low")
    assert class_sentences(("lung", "bone"), 1, None) == [["A WSI of lung", "A WSI of bone"]]
    assert class_sentences(("lung",), 1, [["a", "b"]]) == [
        ["A WSI of lung with visually descriptive characteristics of a, b"]
    ]


def test_descriptions_and_magnifications_that_cannot_be_used_are_refused():
    with pytest.raises(DataError, match="class 'lung' has 3 for 2 magnifications; give that at low, then that at high"):
        class_sentences(("lung",), 2, [["a", "b", "c"]])
    with pytest.raises(DataError, match="class 'lung' has 0 for 1 magnifications"):
        class_sentences(("lung",), 1, [[]])
    with pytest.raises(CapabilityError, match="one or two magnifications, and these bags have 3"):
        build_adapter("vila-mil").fit(scaled(4, 0, 0, scales=3), TEXTS)
    with pytest.raises(CapabilityError, match="there are none"):
        build_adapter("vila-mil").fit(scaled(4, 0, 0), TextClassifier.without_texts(NAMES, WIDTH))
    with pytest.raises(CapabilityError, match="descriptions need a text tower"):
        build_adapter("vila-mil").fit(scaled(4, 0, 0), TEXTS, resources={"descriptions": (("a",), ("b",))})


@pytest.fixture(scope="module")
def world():
    return world_of(small_clip(), 2, 2)


def test_the_context_is_learned_through_the_text_tower_and_kept_with_its_texts(world):
    adapter = build_adapter("vila-mil", **{**QUICK, "epochs": 2}, n_ctx=3)
    fitted = world.fit(adapter, use_val=False)
    start = PromptLearner(world.backbone, world.names, n_ctx=3, seed=1).ctx
    learned = adapter.network["context"]
    assert learned.shape == start.shape and not torch.allclose(learned, start, atol=1e-4)
    (sentences,) = class_sentences(world.names, 1, world.resources["descriptions"]())
    with torch.no_grad():
        texts = PromptLearner(world.backbone, sentences, ctx=learned).encode(normalize=False)
    assert torch.allclose(adapter.network["texts"][0], texts, atol=1e-5)
    assert "after a learned context" in fitted.report.notes[-1]
    assert fitted.report.trained_parameters == sum(
        value.numel() for name, value in adapter.network.items() if name != "texts"
    )


def test_without_a_context_texts_stay_what_the_tower_makes_of_them(world):
    adapter = build_adapter("vila-mil", **{**QUICK, "epochs": 1}, n_ctx=0)
    world.fit(adapter, use_val=False)
    (sentences,) = class_sentences(world.names, 1, world.resources["descriptions"]())
    with torch.no_grad():
        texts = world.backbone.encode_text([f"{each}." for each in sentences], normalize=False)
    assert "context" not in adapter.network and torch.allclose(adapter.network["texts"][0], texts, atol=1e-5)


def test_a_text_too_long_beside_the_context_is_refused(world):
    long = tuple((" ".join(["cells"] * 200),) for _ in world.names)
    inputs = world.inputs(adapter := build_adapter("vila-mil", **QUICK))
    with pytest.raises(
        ConfigError, match=r"class text 'A WSI of .* cells \.\.\.' takes .* tokens, .* shorten"
    ) as error:
        adapter.fit(**{**inputs, "resources": {"descriptions": long}})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(("plateau", "falls"), [(1, True), (None, False)])
def test_the_rate_falls_where_val_gets_no_better(plateau, falls):
    train, val = scaled(12, 0, 0), scaled(12, 1, 0)
    flipped = FeatureSet.of_bags(val.bags, labels=1 - val.labels, class_names=NAMES)  # learning makes it worse
    adapter = build_adapter("vila-mil", **{**QUICK, "epochs": 6}, plateau=plateau, patience=None)
    history = adapter.fit(train, TEXTS, val=flipped, seed=0).history
    rates = [row["lr"] for row in history]
    assert rates[0] == QUICK["lr"] and (rates[-1] < 0.2 * rates[0]) == falls
