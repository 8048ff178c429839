"""Several backbones: how their logits are mixed, what temperatures learn, and that rows must be the same images."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from forked import run
from safetensors.torch import load_file, save_file

from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.contracts.resources import FurtherBackbone
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.registry import adapter_class, build_adapter

QUICK = {"steps": 40, "lr": 1e-2}


@dataclass(frozen=True)
class Backbones:
    """The same images seen by several backbones, the first of which is the fit's own."""

    supports: tuple[FeatureSet, ...]
    vals: tuple[FeatureSet, ...]
    tests: tuple[FeatureSet, ...]
    texts: tuple[TextClassifier, ...]

    @property
    def resources(self) -> dict:
        parts = zip(("second", "third"), self.supports[1:], self.vals[1:], self.texts[1:])
        return {"further_backbones": tuple(FurtherBackbone(*part) for part in parts)}

    @property
    def batch(self) -> Batch:
        return Batch(features=self.tests[0].features, further=tuple(t.features for t in self.tests[1:]))

    def fit(self, use_val=False, seed=0, resources=None, **options):
        adapter = build_adapter("multi-backbone", **{**QUICK, **options})
        adapter.report = adapter.fit(
            self.supports[0],
            self.texts[0],
            val=self.vals[0] if use_val else None,
            resources=resources or self.resources,
            seed=seed,
        )
        return adapter

    def accuracy(self, logits) -> float:
        return float((logits.argmax(dim=-1) == self.tests[0].labels).double().mean())


def seen_by(
    classes=5, shots=6, noises=(1.0, 2.0, 1.5), dims=(16, 24, 8), seed=0, scale=(100.0, 60.0, 100.0)
) -> Backbones:
    """Backbone b sees class centres through noise of its own."""
    generator = torch.Generator().manual_seed(seed)
    counts = torch.as_tensor(shots).expand(classes)
    labels = [
        torch.arange(classes).repeat_interleave(n)
        for n in (counts, torch.full((classes,), 4), torch.full((classes,), 30))
    ]
    names, made = tuple(f"class {i}" for i in range(classes)), []
    for noise, dim, s in zip(noises, dims, scale):
        centres = torch.randn(classes, dim, generator=generator)
        drawn = [
            FeatureSet(centres[y] + noise * torch.randn(len(y), dim, generator=generator), y, names) for y in labels
        ]
        text = centres + 0.8 * torch.randn(classes, dim, generator=generator)
        made.append((*drawn, TextClassifier(text, class_names=names, logit_scale=s)))
    return Backbones(*zip(*made))


@pytest.fixture(scope="module")
def three():
    return seen_by()


def own_logits(three) -> torch.Tensor:
    """(B, N, C)."""
    return torch.stack([text.logits(test.unit) for text, test in zip(three.texts, three.tests)])


def test_mean_is_the_mean_of_the_logits(three):
    adapter = three.fit(combine="mean")
    torch.testing.assert_close(adapter.logits(three.batch), own_logits(three).mean(dim=0), atol=1e-4, rtol=1e-5)
    assert adapter.report.chosen == {"temperature own": 1.0, "temperature second": 1.0, "temperature third": 1.0}
    assert adapter.report.trained_parameters == 0 and adapter.report.chosen_on == "nothing to choose"


def test_static_divides_by_temperatures_that_are_stationary(three):
    """At the temperatures found the loss, written out, has no slope; they are in the report."""
    adapter = three.fit(combine="static", prior=0.05)
    logits = torch.stack([text.logits(one.unit) for text, one in zip(three.texts, three.supports)])
    weights = adapter.log_weights.clone().requires_grad_()
    mixed = (weights.exp()[:, None, None] * logits).mean(dim=0)
    loss = F.cross_entropy(mixed, three.supports[0].labels) + 0.05 * weights.square().sum()
    loss.backward()
    assert weights.grad.abs().max() < 1e-3 and weights.abs().max() > 0.1
    temperatures = torch.tensor(list(adapter.report.chosen.values()))
    torch.testing.assert_close(temperatures, (-weights.detach()).exp())
    wanted = (own_logits(three) / temperatures[:, None, None]).mean(dim=0)
    torch.testing.assert_close(adapter.logits(three.batch), wanted, atol=1e-3, rtol=1e-4)
    assert adapter.report.trained_parameters == 3


def test_a_strong_prior_leaves_the_mean(three):
    torch.testing.assert_close(
        three.fit(combine="static", prior=1e6).logits(three.batch), own_logits(three).mean(dim=0), atol=1e-2, rtol=1e-3
    )


def test_the_backbone_that_sees_better_weighs_more():
    three = seen_by(noises=(3.0, 0.5, 3.0), scale=(10.0, 10.0, 10.0), shots=8)
    for combine in ("static", "input"):
        found = three.fit(combine=combine).report.chosen
        assert found["temperature second"] < 0.7 * min(found["temperature own"], found["temperature third"])


def test_the_controller_begins_at_the_static_temperatures(three):
    static, one_step = three.fit(combine="static"), three.fit(combine="input", steps=1, lr=1e-9)
    torch.testing.assert_close(one_step.logits(three.batch), static.logits(three.batch), atol=1e-3, rtol=1e-4)


def test_the_controller_is_its_formula_and_sees_every_backbone(three):
    adapter = three.fit()
    unit = torch.cat([test.unit for test in three.tests], dim=-1)
    seen = (unit - torch.cat([one.unit for one in three.supports], dim=-1).mean(dim=0)) * 48**0.5
    said = adapter.log_weights + F.relu(seen @ adapter.inner + adapter.inner_bias) @ adapter.outer
    wanted = (said.exp().T[..., None] * own_logits(three)).mean(dim=0)
    torch.testing.assert_close(adapter.logits(three.batch), wanted, atol=1e-3, rtol=1e-4)
    assert all(part.abs().max() > 0.01 for part in (said - said.mean(dim=0)).T)  # other temperatures an image
    for place in range(3):
        parts = [test.features for test in three.tests]
        parts[place] = parts[place].flip(0)
        moved = adapter._log_weights_of(torch.cat([F.normalize(part, dim=-1) for part in parts], dim=-1))
        assert not torch.allclose(moved, said.T, atol=1e-3)
    assert adapter.report.trained_parameters == 3 + 48 * 32 + 32 + 32 * 3


def test_the_controller_learns_where_each_backbone_is_good():
    """Two kinds of images, told apart by the own features; each further backbone sees one kind only."""
    generator = torch.Generator().manual_seed(0)
    randn = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    centres = [randn(4, dim) for dim in (8, 12, 12)]

    def drawn(count):
        labels, kind = torch.arange(count) % 4, (torch.arange(count) // 4) % 2
        own = torch.cat([4.0 * F.one_hot(kind, 2).float(), 0.5 * randn(count, 6)], dim=-1)
        made = [own] + [
            torch.where(kind[:, None] == b, centres[b + 1][labels], 1.5 * randn(count, 12)) + 0.4 * randn(count, 12)
            for b in (0, 1)
        ]
        return tuple(FeatureSet(features, labels) for features in made)

    two = Backbones(drawn(160), drawn(16), drawn(400), tuple(TextClassifier(c, logit_scale=20.0) for c in centres))
    static, seeing = (two.accuracy(two.fit(combine=c, steps=300).logits(two.batch)) for c in ("static", "input"))
    assert seeing > static + 0.1


def test_training_lowers_the_loss(three):
    history = three.fit(steps=80, batch_size=10).report.history
    assert len(history) == 27 and history[-1]["loss"] < history[0]["loss"]  # 3 steps a pass, the last pass cut short


def test_biases_and_scales_of_each_backbone(three):
    texts = (three.texts[0], replace(three.texts[1], logit_scale=430.0, logit_bias=-12.0), three.texts[2])
    other = replace(three, texts=texts)
    torch.testing.assert_close(
        other.fit(combine="mean").logits(three.batch), own_logits(other).mean(dim=0), atol=1e-3, rtol=1e-4
    )


@pytest.mark.parametrize(
    "case",
    [
        {"classes": 2, "shots": 1},
        {"shots": (1, 7, 2, 16, 5)},
        {"shots": (4, 0, 4, 4, 4)},
        {"classes": 1000, "shots": 1},
    ],
)
@pytest.mark.parametrize("combine", ["static", "input"])
def test_hard_shapes(case, combine):
    found = seen_by(**{**case, "shots": torch.tensor(case["shots"])})
    found = replace(found, tests=tuple(test.select(range(20)) for test in found.tests))
    logits = found.fit(combine=combine, steps=5).logits(found.batch)
    assert logits.shape == (20, len(found.texts[0])) and torch.isfinite(logits).all()


def test_one_further_backbone_is_enough(three):
    two = Backbones(three.supports[:2], three.vals[:2], three.tests[:2], three.texts[:2])
    assert torch.isfinite(two.fit().logits(two.batch)).all()


def test_order_of_images_and_classes_does_not_matter(three):
    options = {"combine": "input", "batch_size": 100}  # whole passes
    logits = three.fit(**options).logits(three.batch)
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = replace(three, supports=tuple(one.select(rows) for one in three.supports))
    torch.testing.assert_close(shuffled.fit(**options).logits(three.batch), logits, atol=0.2, rtol=1e-2)
    order = torch.tensor([3, 1, 4, 0, 2])
    turned = replace(
        three,
        supports=tuple(replace(s, labels=order.argsort()[s.labels], class_names=()) for s in three.supports),
        texts=tuple(text.select(order) for text in three.texts),
    )
    torch.testing.assert_close(turned.fit(**options).logits(three.batch), logits[:, order], atol=0.2, rtol=1e-2)


def test_accuracy_on_val_is_noted(three):
    adapter = three.fit(use_val=True)
    batch = Batch(features=three.vals[0].features, further=tuple(v.features for v in three.vals[1:]))
    right = lambda logits: 100 * float((logits.argmax(dim=-1) == three.vals[0].labels).double().mean())  # noqa: E731
    own, second, third = (right(text.logits(val.unit)) for text, val in zip(three.texts, three.vals))
    wanted = f"own {own:.1f}, second {second:.1f}, third {third:.1f}, together {right(adapter.logits(batch)):.1f}"
    assert adapter.report.notes[0] == f"accuracy on val: {wanted}"
    (ours,) = three.fit().report.notes
    assert ours.startswith("experimental") and ours.endswith(three.fit().experimental)


# errors -------------------------------------------------------------------------------------------------------------


def changed(three, **change) -> dict:
    first, *rest = three.resources["further_backbones"]
    return {"further_backbones": (replace(first, **change), *rest)}


def test_rows_must_be_the_same_images(three):
    support, val = three.supports[1], three.vals[1]
    named = replace(three, supports=(replace(three.supports[0], ids=tuple(map(str, range(30)))), *three.supports[1:]))
    for message, where, change in (
        ("29 shots for 30", three, {"support": support.select(range(29))}),
        ("its shots are others, or in another order", three, {"support": support.select(range(29, -1, -1))}),
        ("its shots are others", named, {"support": replace(support, ids=("x",) * 30)}),
        ("its val images are others", three, {"val": val.select(range(19, -1, -1))}),
    ):
        with pytest.raises(DataError, match=f"further backbone 'second': {message}"):
            where.fit(use_val=True, resources=changed(three, **change))
    assert three.fit(resources=changed(three, support=support.without_labels())).fitted_


def test_classes_must_be_the_same(three):
    text = three.texts[1]
    for other in (text.select([0, 1, 2]), text.select([1, 0, 2, 3, 4])):
        with pytest.raises(DataError, match="'second': its text classifier has other classes, or another order"):
            three.fit(resources=changed(three, classifier=other))


def test_further_features_are_needed_to_fit_and_to_predict(three):
    with pytest.raises(CapabilityError, match="needs features of further backbones"):
        build_adapter("multi-backbone").fit(three.supports[0], three.texts[0])
    with pytest.raises(CapabilityError, match="name at least one further one"):
        build_adapter("multi-backbone").fit(three.supports[0], three.texts[0], resources={"further_backbones": ()})
    adapter = three.fit(combine="mean")
    for further in (None, three.batch.further[:1]):
        with pytest.raises(CapabilityError, match=r"further=\(one of second, one of third\)"):
            adapter.logits(Batch(features=three.batch.features, further=further))
    wide = (three.batch.further[0], torch.zeros(len(three.batch.features), 9))
    with pytest.raises(CapabilityError, match="49 wide together, those of the fit 48; give second, third"):
        adapter.logits(Batch(features=three.batch.features, further=wide))


# options, saving, real features -------------------------------------------------------------------------------------


def test_it_is_experimental():
    assert adapter_class("multi-backbone").experimental


@pytest.mark.parametrize("combine", ["mean", "static", "input"])
def test_the_seed_fixes_the_controller(three, combine):
    first, again, other = (
        three.fit(combine=combine, batch_size=10, seed=seed).logits(three.batch) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and torch.equal(first, other) == (combine != "input")


def test_another_process_reads_the_same_logits(three, tmp_path):
    logits = {}
    for combine in ("mean", "static", "input"):
        adapter = three.fit(combine=combine)
        adapter.save(tmp_path / f"{combine}.safetensors")
        logits[combine] = adapter.logits(three.batch)
    save_file({str(i): test.features for i, test in enumerate(three.tests)}, tmp_path / "features")
    script = f"""
from safetensors.torch import load_file, save_file
from vladapt.core.contracts import Batch
from vladapt.core.registry import load_adapter
folder = {str(tmp_path)!r}
own, *further = (value for _, value in sorted(load_file(folder + "/features").items()))
batch = Batch(features=own, further=tuple(further))
names = ("mean", "static", "input")
save_file({{n: load_adapter(f"{{folder}}/{{n}}.safetensors").logits(batch) for n in names}}, folder + "/logits")
"""
    run(["-c", script], check=True)
    torch.testing.assert_close(load_file(tmp_path / "logits"), logits, atol=1e-4, rtol=1e-5)


@pytest.mark.thorough(but=("4",))
@pytest.mark.parametrize("shots", [4, 16])
def test_together_they_beat_the_best_of_them_on_real_features(data_dir, shots):
    """WHU-RS19 seen by CLIP's RN50, ViT-B/32 and ViT-L/14, mean of 2 seeds. A mean helps, temperatures help more."""
    folder, read = data_dir / "features" / "whurs19_clip", []
    for model in ("RN50", "ViTB32", "ViTL14"):
        if not (folder / f"whurs19_CLIP_{model}.npz").is_file():
            pytest.skip("the whurs19 features are not there")
        with np.load(folder / f"whurs19_CLIP_{model}.npz") as stored:
            get = lambda name: torch.from_numpy(stored[name].astype(np.float32))  # noqa: E731
            read.append((FeatureSet(get("image_features"), get("labels").long()), TextClassifier(get("text_average"))))
    labels = read[0][0].labels
    assert all(torch.equal(data.labels, labels) for data, _ in read)  # the same images, row by row
    right = {"best": [], "mean": [], "static": [], "input": []}
    for seed in (1, 2):
        order = torch.randperm(1005, generator=torch.Generator().manual_seed(seed))
        rows = [order[labels[order] == label] for label in range(19)]
        picked = [torch.cat([r[part] for r in rows]) for part in (slice(shots), slice(16, 20), slice(20, None))]
        seen = Backbones(*([data.select(p) for data, _ in read] for p in picked), [text for _, text in read])
        right["best"].append(max(map(seen.accuracy, own_logits(seen))))
        for combine in ("mean", "static", "input"):
            adapter = seen.fit(combine=combine, steps=300, lr=1e-3, seed=seed)
            right[combine].append(seen.accuracy(adapter.logits(seen.batch)))
    best, mean, static, seeing = (np.mean(right[name]) for name in right)
    assert best < mean < static < seeing and seeing > best + 0.03
