"""Classes with unequal numbers of images, and settings that score alike: what all methods on features keep."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from settings import OPTIONS

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.contracts.parts import ClassWeighting, Ties, part_of
from vladapt.core.data.sampling import hold_out_support
from vladapt.core.metrics.classification import classification_metrics, multilabel_metrics, val_score
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import adapter_class, build_adapter, catalogue
from vladapt.core.testing.method import Method
from vladapt.core.testing.towers import small_clip

PLAIN = frozenset({"features", "views"})
ALL = sorted(catalogue.adapters())
ON_FEATURES = [name for name in ALL if adapter_class(name).needs <= PLAIN]
WEIGHTED = [name for name in ON_FEATURES if part_of(adapter_class(name), ClassWeighting)]
ALL_WEIGHTED = [name for name in ALL if part_of(adapter_class(name), ClassWeighting)]
SEARCHED = [name for name in ON_FEATURES if part_of(adapter_class(name), Ties)]
QUICK = {
    "tip-adapter": {"search_step": (30, 10)}, "tip-adapter-f": {"search_step": (30, 10), "epochs": 10},
    "ape": {"search_step": (20, 10, 4)}, "ape-t": {"search_step": (30, 10), "epochs": 10},
    "tip-x": {"search_step": (30, 10, 10)}, "clip-adapter": {"epochs": 20}, "clap": {"epochs": 100},
    "taskres": {"epochs": 50}, "nmtune": {"epochs": 5, "ratio": 1}, "lp-plus-plus": {},
    "linear-probe": {"steps": 2, "max_iter": 200}, "real-linear": {"iterations": 100, "lr": 2e-3},
    "auto": {"candidates": ("proker", "gda", "ridge", "zero-shot", "nearest-mean")},
    "cross-modal": {"iterations": 150, "lr": 2e-3, "weight_decay": 0.01, "batch_size": 32, "eval_every": 50},
}  # fmt: skip
TRAINED = {"wise-ft": {"alpha": 1.0}}
SIZES = (2, 4, 9, 20, 45, 100)
SLACK = 0.02


class Drawn:
    """Classes around random centres in 96 channels, some of them correlated, and texts that know them roughly.

    Args:
        text_noise: how far texts are from their centres; 20 knows nothing.
        noise: how far images are from their centres.
    """

    def __init__(self, seed: int, text_noise: float = 1.5, sizes=SIZES, dim: int = 96, noise: float = 2.0):
        generator = self.generator = torch.Generator().manual_seed(seed)
        self.centres = torch.randn(len(sizes), dim, generator=generator)
        self.common = 2 * torch.randn(dim, generator=generator)
        self.mix = noise * torch.randn(dim, dim, generator=generator) / dim**0.5
        text = self.centres + text_noise * torch.randn(self.centres.shape, generator=generator) + self.common
        self.names = tuple(f"class {number}" for number in range(len(sizes)))
        self.text = TextClassifier(F.normalize(text, dim=-1), logit_scale=100.0, class_names=self.names)
        self.train, self.val = self.images(sizes), self.images([max(1, size // 5) for size in sizes])
        self.test = self.images([60] * len(sizes))

    def images(self, counts) -> FeatureSet:
        labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        noise = torch.randn(len(labels), len(self.mix), generator=self.generator) @ self.mix
        return FeatureSet(self.centres[labels] + self.common + noise, labels, self.names)

    def shots(self, images: FeatureSet, count: int | None) -> FeatureSet:
        """The first so many of each class, or all."""
        rows = [(images.labels == c).nonzero().flatten()[:count] for c in range(len(self.names))]
        return images.select(torch.cat(rows))

    def balanced_accuracy(self, name: str, count: int | None, seed: int) -> float:
        adapter = build_adapter(name, **QUICK.get(name, {}))
        val = self.shots(self.val, None if count is None else min(count, 4))
        adapter.fit(self.shots(self.train, count), self.text, val=val, seed=seed)
        return classification_metrics(adapter.logits(self.test), self.test.labels, len(self.names))["balanced_accuracy"]


def test_weights_and_scores_of_a_method_are_balanced_where_its_classes_count_alike():
    labels, logits = torch.tensor([0, 0, 0, 1]), torch.tensor([[1.0, 0.0]] * 4)  # all are taken for the first class
    alike, plain = (build_adapter("gda", class_weight=weight).weighting for weight in ("balanced", "none"))
    assert alike.class_weights(labels, 2).tolist() == pytest.approx([4 / 6, 2])
    assert plain.class_weights(labels, 2) is None
    assert (alike.val_score(logits, labels), plain.val_score(logits, labels)) == pytest.approx((0.5, 0.75))
    assert alike.class_weights(labels[2:], 2) is None and alike.class_weights(F.one_hot(labels).float(), 2) is None


def repeats(name: str, do: str) -> bool:
    """Of methods that take half a second and more, a thorough run asks where texts guess, too."""
    return do == "guess" and name in ("ape-t", "auto", "clap", "cross-modal", "lp-plus-plus", "proker", "real-linear")


@pytest.mark.parametrize(
    ("name", "text_noise"),
    [
        pytest.param(name, noise, id=f"{name}-texts that {do}", marks=pytest.mark.thorough if repeats(name, do) else ())
        for name in ON_FEATURES
        for noise, do in ((1.5, "help"), (20.0, "guess"))
        if noise == 1.5 or name != "linear-probe"  # which looks at no texts
    ],
)
def test_more_labels_of_unequal_classes_do_no_harm(name, text_noise):
    """Mean balanced accuracy of 2 seeds with 4, 16 and all labels: never more than 2 points below the one before."""
    drawn = [Drawn(seed, text_noise) for seed in range(2)]
    few, more, every = (
        sum(one.balanced_accuracy(name, count, seed) for seed, one in enumerate(drawn)) / len(drawn)
        for count in (4, 16, None)
    )
    assert more >= few - SLACK, (few, more, every)
    assert every >= more - SLACK, (few, more, every)


@pytest.mark.thorough(but=("(2, 84)-256-4.0-1.5-ape-t", "(2, 84)-256-4.0-1.5-tip-adapter-f"))
@pytest.mark.parametrize("name", ["linear-probe", "lp-plus-plus", "ape-t", "tip-adapter-f"])
@pytest.mark.parametrize(
    ("sizes", "dim", "noise", "text_noise"), [((2, 84), 256, 4.0, 1.5), ((4, 8, 16, 120), 256, 4.0, 20.0)], ids=str
)
def test_rare_classes_of_wide_features_do_not_fall_behind(name, sizes, dim, noise, text_noise):
    """What fits two images of 256 numbers says little of a third: without offsets all labels cost up to 20 points."""
    drawn = [Drawn(seed, text_noise, sizes, dim, noise) for seed in range(3)]
    more, every = (
        sum(one.balanced_accuracy(name, count, seed) for seed, one in enumerate(drawn)) / len(drawn)
        for count in (16, None)
    )
    assert every >= more - SLACK, (more, every)


KEYS = {"beta": 1.0, "alpha": 1.0}


@pytest.mark.parametrize(
    ("name", "given"),
    [("linear-probe", {}), ("lp-plus-plus", {}), ("ape-t", {}), ("ape-t", KEYS)]
    + [("tip-adapter-f", {}), ("tip-adapter-f", KEYS)],
)
def test_the_val_score_is_that_of_what_predicts(name, given):
    """Offsets are learned after settings are chosen, and count."""
    drawn = Drawn(0, 20.0, sizes=(2, 5, 30), dim=256, noise=4.0)
    val = drawn.images((20, 20, 20))
    adapter = build_adapter(name, **QUICK[name], **given)
    report = adapter.fit(drawn.train, drawn.text, val=val)
    assert report.val_score == pytest.approx(val_score(adapter.logits(val), val.labels, balanced=True))
    assert report.chosen_on == "val (60 images)"


@pytest.mark.parametrize("name", ["lp-plus-plus", "ape-t", "tip-adapter-f"])
def test_the_score_on_held_out_images_is_of_a_fit_on_the_rest_with_its_offsets(name):
    drawn = Drawn(1, 20.0, sizes=(8, 12, 30), dim=256, noise=4.0)
    rest, held = hold_out_support(drawn.train, 0)
    report = build_adapter(name, **QUICK[name]).fit(drawn.train, drawn.text)
    same = build_adapter(name, **QUICK[name]).fit(rest, drawn.text, val=held)
    assert (report.chosen["epoch"], report.val_score) == (same.chosen["epoch"], same.val_score)


@pytest.mark.parametrize("name", ["ape-t", "tip-adapter-f"])
def test_untrained_keys_are_an_epoch_where_beta_and_alpha_are_given(name):
    """A rate that ruins them: they are kept as they were before."""
    drawn = Drawn(0, sizes=(4, 8, 20))
    adapter = build_adapter(name, **QUICK[name] | {"lr": 50.0}, beta=1.0, alpha=1.0)
    assert adapter.fit(drawn.train, drawn.text, val=drawn.images((20, 20, 20))).chosen["epoch"] == 0


@pytest.mark.parametrize("name", ["ape-t", "tip-adapter-f"])
def test_nothing_is_trained_twice_on_the_same_images(name, monkeypatch):
    """Once on the support, once on each fold for the offsets."""
    drawn, trained, cls = Drawn(0, sizes=(5, 8, 20)), [], adapter_class(name)
    plain = cls._train

    def counted(self, support, **given):
        if given.get("stop") != 0:
            trained.append(tuple(support.features[:, 0].tolist()))
        return plain(self, support, **given)

    monkeypatch.setattr(cls, "_train", counted)
    report = build_adapter(name, **QUICK[name]).fit(drawn.train, drawn.text, val=drawn.val)
    assert report.chosen["epoch"] > 0
    assert len(trained) == len(set(trained)) == 6


@pytest.mark.parametrize("name", WEIGHTED)
def test_weights_of_equal_classes_change_nothing(name):
    """Where classes are unequal they do, by `test_every_option.py`."""
    drawn = Drawn(0, sizes=(8, 8, 8))

    def logits(**options):
        adapter = build_adapter(name, **{**QUICK.get(name, {}), **options})
        adapter.fit(drawn.train, drawn.text, val=drawn.val)
        return adapter.logits(drawn.test)

    assert torch.equal(logits(), logits(class_weight="none"))


@pytest.mark.thorough(but=("full", "coop", "maple", "temporal-tip", "cocoop"))
@pytest.mark.parametrize("name", sorted(set(ALL_WEIGHTED) - set(WEIGHTED)))
def test_prompts_and_towers_weigh_no_equal_classes(name):
    method = Method(adapter_class(name), OPTIONS.get(name))

    def logits(class_weight: str):
        options = {"class_weight": class_weight, **TRAINED.get(name, {})}
        return method.world.logits(method.fit(options=options).adapter)

    assert torch.equal(logits("balanced"), logits("none"))


def test_what_learns_from_classes_weighs_them():
    """But for contrast within a batch (lit), which has the shares by itself, neighbours among test images, and means or
    sums of each class, of which only the direction counts."""
    learning = {name for name in ALL if not adapter_class(name).label_free}
    assert learning - set(ALL_WEIGHTED) == {"lit", "transclip", "nearest-mean", "ss-text"}


def test_several_labels_have_no_priors():
    adapter = build_adapter("coop")
    assert adapter.weighting.priors_of(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), 2) is None


class Published(type(build_adapter("coop"))):
    """As published, whatever its class_weight."""

    as_published = True


def test_as_published_no_class_is_weighed():
    assert Published().weighting.priors_of(torch.tensor([0, 0, 1]), 2) is None
    assert build_adapter("coop").weighting.priors_of(torch.tensor([0, 0, 1]), 2) is not None


@pytest.mark.thorough(but=("coop",))
@pytest.mark.parametrize("name", ["coop", "kgcoop", "pomp"])
def test_more_labels_of_unequal_classes_do_no_harm_to_prompts(name):
    """On features around the texts of a small tower."""
    sizes, options = (2, 6, 30), {"n_ctx": 2, "ctx_init": None, "epochs": 5, "lr": 0.02, "batch_size": 8}
    options |= {"sampled_classes": 2} if name == "pomp" else {}
    backbone = small_clip()
    names = tuple(f"colour {number}" for number in range(len(sizes)))
    text = build_classifier(backbone, names, ["a {}."])
    drawn = [Drawn(seed, sizes=sizes, dim=text.weights.shape[1]) for seed in range(5)]

    def score(one: Drawn, count, seed: int) -> float:
        adapter = build_adapter(name, **options)
        adapter.fit(one.shots(one.train, count), text, backbone=backbone, seed=seed)
        return classification_metrics(adapter.logits(one.test), one.test.labels, len(sizes))["balanced_accuracy"]

    few, more, every = (
        sum(score(one, count, seed) for seed, one in enumerate(drawn)) / len(drawn) for count in (4, 16, None)
    )
    assert more >= few - SLACK and every >= more - SLACK, (few, more, every)


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "ape", "ape-t"])
def test_a_preset_asks_for_what_is_published(name):
    adapter = build_adapter(name, preset="eurosat")
    assert not adapter.weighting.balanced and adapter.ties == "published"
    assert build_adapter(name).weighting.balanced and build_adapter(name).ties == "plateau"


@pytest.mark.parametrize("name", [name for name in SEARCHED if adapter_class(name).presets])
def test_what_is_given_beside_a_preset_goes_before_it(name):
    drawn = Drawn(0, sizes=(3, 6, 12))

    def fitted(**options) -> tuple:
        adapter = build_adapter(name, **QUICK.get(name, {}), preset="eurosat", **options)
        adapter.fit(drawn.train, drawn.text, val=drawn.val)
        again = build_adapter(name, **adapter.options)
        assert again.options == adapter.options
        return adapter.options["class_weight"], adapter.options["ties"], adapter.logits(drawn.test)

    *shared, published = fitted()
    assert shared == ["none", "published"]
    assert torch.equal(fitted(class_weight="none", ties="published")[-1], published)
    *shared, weighted = fitted(class_weight="balanced", ties="plateau")
    assert shared == ["balanced", "plateau"] and not torch.equal(weighted, published)


EASY = {
    "clip-adapter": {"ratio": None},
    "cross-modal": {"lr": None, "weight_decay": None, "batch_size": None, "iterations": 60},
}


@pytest.mark.parametrize("name", SEARCHED)
def test_of_settings_that_score_alike_the_middle_is_taken(name):
    """Texts and images that leave no doubt: everything is right on val, so that published searches end at an edge."""
    drawn = Drawn(0, text_noise=0.0, sizes=(8, 8, 8))
    options = {**QUICK.get(name, {}), **EASY.get(name, {})}
    chosen = {}
    for ties in ("published", "plateau"):
        report = build_adapter(name, **options, ties=ties).fit(drawn.train, drawn.text, val=drawn.val)
        assert report.val_score == 1
        chosen[ties] = report.chosen
    assert chosen["published"] != chosen["plateau"]


@pytest.mark.parametrize("name", ["tip-adapter", "tip-adapter-f", "ape", "ape-t"])
def test_where_texts_guess_the_search_leaves_them(name):
    """The published grid ends where the texts still decide."""
    drawn, found = Drawn(3, text_noise=30.0, sizes=(4, 4, 4, 4)), {}
    val = drawn.images((12, 12, 12, 12))
    for ties in ("published", "plateau"):
        adapter = build_adapter(name, **QUICK[name], ties=ties)
        adapter.fit(drawn.train, drawn.text, val=val)
        right = adapter.logits(drawn.test).argmax(dim=1) == drawn.test.labels
        found[ties] = adapter.alpha_, float(right.double().mean())
    end = 7.0 if name.startswith("ape") else 3.0
    assert found["published"][0] <= end < found["plateau"][0]
    assert found["plateau"][1] >= found["published"][1]


def test_several_labels_are_ranked_as_scikit_learn_ranks_the_logits():
    """Of every adapter that takes several labels: hundreds of positives must not saturate what is reported."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = torch.Generator().manual_seed(0)
    centres, common = torch.randn(4, 48, generator=generator), 3 * torch.randn(48, generator=generator)

    def images(count: int) -> FeatureSet:
        present = (torch.rand(count, 4, generator=generator) < torch.tensor([0.5, 0.3, 0.1, 0.6])).float()
        features = present @ centres + common + 3 * torch.randn(count, 48, generator=generator)
        return FeatureSet(features, present, ("a", "b", "c", "d"))

    text = F.normalize(centres + common + torch.randn(4, 48, generator=generator), dim=-1)
    against = F.normalize(common + torch.randn(4, 48, generator=generator), dim=-1)
    classifier = TextClassifier(text, logit_scale=100.0, negative=against, class_names=("a", "b", "c", "d"))
    support, val, test = images(500), images(60), images(300)
    for name in (name for name in ON_FEATURES if adapter_class(name).multilabel):
        adapter = build_adapter(name, **QUICK.get(name, {}))
        adapter.fit(support, classifier, val=val)
        logits, truth = adapter.logits(test), test.labels
        reported = multilabel_metrics(logits, truth, test.class_names)
        each = [roc_auc_score(truth[:, c], logits[:, c]) for c in range(4)]
        assert [reported[f"auroc/{c}"] for c in test.class_names] == pytest.approx(each, abs=1e-5), name
        assert reported["auroc"] == pytest.approx(sum(each) / 4, abs=1e-5)
        precision = [average_precision_score(truth[:, c], logits[:, c]) for c in range(4)]
        assert reported["mean_average_precision"] == pytest.approx(sum(precision) / 4, abs=1e-5)
        assert min(each) > 0.55, (name, each)
        assert logits.abs().max() < 60, name  # a sigmoid can tell them apart
