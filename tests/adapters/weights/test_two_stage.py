"""2SFS: what each stage trains and for how long, selective inference, resuming, and towers that lack something."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.towers import two_stage
from trained_towers import logits, moved

from vladapt import Batch, CapabilityError, build_adapter, build_classifier, load_backbone
from vladapt.core.contracts import TrainingPlace
from vladapt.core.losses.cross_entropy import CrossEntropy
from vladapt.core.training import loading
from vladapt.core.training.checkpoints import checkpoints

QUICK = {"iterations": 2, "batch_size": 5, "lr": 2e-2}


def fitted(problem, seed=1, **options):
    adapter = build_adapter("two-stage", **{**QUICK, **options})
    adapter.report = problem.fit(adapter, seed)
    return adapter


def test_agrees_with_the_reference(agrees):
    agrees(two_stage)


def test_the_first_stage_trains_the_norms_of_the_blocks_alone(make_problem, small_clip):
    """As released; the norms before and after the blocks with `all-norms`."""
    narrow, wide = (moved(fitted(make_problem(), tune=tune), small_clip) for tune in ("norms", "all-norms"))
    assert narrow and all(".resblocks." in name and (".ln_1." in name or ".ln_2." in name) for name in narrow)
    assert {small_clip.tower_of(name) for name in narrow} == {"image", "text"}
    outside = {name.rpartition(".")[0] for name in wide - narrow}
    assert narrow < wide and outside == {"visual.ln_pre", "visual.ln_post", "ln_final"}


@pytest.mark.parametrize(("tune", "kind"), [("biases", "bias"), ("lora", "attn.in_proj_weight")])
def test_the_first_stage_may_train_biases_or_attention(make_problem, small_clip, tune, kind):
    if tune == "lora":
        pytest.importorskip("peft", reason="extra fine-tune is not installed")
    names = moved(fitted(make_problem(), tune=tune), small_clip)
    assert {small_clip.tower_of(name) for name in names} == {"image", "text"}
    assert all(name.endswith(kind) for name in names)


def test_the_budget_goes_by_shots_and_by_steps(make_problem, monkeypatch):
    """Of 10 steps per shot and 3 shots 18 and 12; images that fill no batch are seen in each epoch, too."""
    told, seen, original = [], [], loading.collate

    def collate(samples, *how):
        seen.append([int(sample["index"]) for sample in samples])
        return original(samples, *how)

    monkeypatch.setattr(loading, "collate", collate)
    adapter = build_adapter("two-stage", **{**QUICK, "iterations": 10})
    place = TrainingPlace(None, on_step=lambda done, total, values: told.append((done, total)))
    report = make_problem(shots=[3, 1, 3]).fit(adapter, place=place)
    assert report.chosen["first stage"] == 18 and report.chosen["steps"] == 30
    assert told == [(step, 30) for step in range(1, 31)]
    assert [len(batch) for batch in seen] == [5, 2] * 15
    assert sorted(seen[0] + seen[1]) == list(range(7))
    assert [row["stage"] for row in report.history] == [1] * 9 + [2] * 6


def test_the_second_stage_trains_the_rows_of_the_classifier_and_nothing_else(make_problem, small_clip):
    """As long a first stage leaves the same towers, whatever comes after it."""
    problem = make_problem()
    short, long = fitted(problem, iterations=2, first_share=0.5), fitted(problem, iterations=4, first_share=0.25)
    assert [a.report.chosen["first stage"] for a in (short, long)] == [4, 4]
    assert all(torch.equal(short.changed[name], long.changed[name]) for name in short.changed)
    texts = build_classifier(long.adapted(small_clip), long.class_names_, problem.images.templates[:1]).weights
    moved_by = [(F.normalize(a.weights, dim=1) - texts).abs().max() for a in (short, long)]
    assert 1e-3 < moved_by[0] < moved_by[1]
    norms = sum(value.numel() for value in long.changed.values())
    assert long.report.trained_parameters == norms + long.weights.numel()


def test_the_second_stage_normalises_the_rows_again_in_every_step(make_problem, small_clip):
    """The loop written out, on all images at once: AdamW with decay and a cosine per step, on scaled cosines."""
    problem = make_problem(shots=3)
    plain = problem.images.eval_transform
    problem = replace(problem, images=replace(problem.images, train_transform=lambda decoded, seed: plain(decoded)))
    adapter = fitted(problem, iterations=4, batch_size=len(problem.images.items), lr=0.1, first_share=0.5)
    towers, steps = adapter.adapted(small_clip), adapter.report.chosen["steps"] - adapter.report.chosen["first stage"]
    rows = build_classifier(towers, adapter.class_names_, problem.images.templates[:1]).weights.clone().requires_grad_()
    with torch.no_grad():
        unit = towers.encode_image(problem.pixels(problem.images.items))
    optimizer = torch.optim.AdamW([rows], lr=0.1, weight_decay=1e-2)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1e-6 + (0.1 - 1e-6) * (1 + math.cos(math.pi * step / steps)) / 2
        logits_of_rows = adapter.logit_scale * unit @ (rows / rows.norm(dim=1, keepdim=True)).T
        optimizer.zero_grad()
        F.cross_entropy(logits_of_rows, problem.support.labels).backward()
        optimizer.step()
    torch.testing.assert_close(adapter.weights, rows.detach(), atol=2e-4, rtol=1e-3)


def test_logits_are_scaled_cosines_to_rows_of_any_length(make_problem, small_clip):
    problem = make_problem()
    adapter = fitted(problem)
    with torch.no_grad():
        unit = adapter.adapted(small_clip).encode_image(problem.pixels(problem.images.val))
    expected = adapter.logit_scale * unit @ F.normalize(adapter.weights, dim=1).T
    torch.testing.assert_close(logits(adapter, problem), expected)
    assert adapter.logit_scale == pytest.approx(float(small_clip.logit_scale))  # frozen
    assert (adapter.weights.norm(dim=1) - 1).abs().max() > 1e-3  # not made unit where they are kept


def test_known_classes_have_their_trained_rows_and_others_their_text(make_problem, small_clip):
    """Selective inference, by name, both kinds in one classifier."""
    problem = make_problem()
    adapter = fitted(problem)
    names = ("sea", "colour 2", "forest", "colour 0")
    other = adapter.for_classes(small_clip, names)
    texts = build_classifier(adapter.adapted(small_clip), names, problem.images.templates[:1]).weights
    rows = F.normalize(adapter.weights, dim=1)
    torch.testing.assert_close(other.weights, torch.stack([texts[0], rows[2], texts[2], rows[0]]))
    torch.testing.assert_close(logits(other, problem)[:, [3, 1]], logits(adapter, problem)[:, [0, 2]])
    before = build_classifier(small_clip, names, problem.images.templates[:1]).weights
    assert not torch.allclose(texts, before, atol=1e-3)  # of the tuned text tower


def test_unequal_classes_count_alike_in_both_stages(make_problem, monkeypatch):
    problem, seen, original = make_problem(shots=[1, 4, 2]), [], CrossEntropy.compute

    def compute(self, out, progress):
        seen.append(out.get("class_priors"))
        return original(self, out, progress)

    balanced = fitted(problem)
    assert not torch.equal(balanced.weights, fitted(problem, class_weight="none").weights)
    monkeypatch.setattr(CrossEntropy, "compute", compute)
    fitted(problem)
    expected = (torch.tensor([1.0, 4.0, 2.0]) / 7).log()
    assert len(seen) == 8 and all(torch.allclose(priors, expected) for priors in seen)


def test_several_labels_train_negative_rows_too(make_problem):
    problem = make_problem(labels=lambda of: tuple(float(of == c) for c in range(3)))
    adapter = fitted(problem, iterations=4)
    assert "binary-cross-entropy" in adapter.report.history[-1]
    found = adapter.predict(Batch(pixels=problem.pixels(problem.images.val)))
    assert found.shape == (6, 3) and found.min() >= 0 and found.max() <= 1
    texts = build_classifier(adapter.adapted(problem.backbone), adapter.class_names_, ["no {}."]).weights
    assert not torch.allclose(adapter.negative, texts, atol=1e-3)
    torch.testing.assert_close(adapter.negative.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("when", [3, 7], ids=["in the first stage", "in the second"])
def test_a_resume_ends_alike(make_problem, tmp_path, when):
    problem = make_problem()
    options = {**QUICK, "save_every": 1}  # 8 steps, 4 of each stage

    class Stop(Exception):
        pass

    def stop(done, total, values):
        if done == when:
            raise Stop

    with pytest.raises(Stop):
        problem.fit(build_adapter("two-stage", **options), place=TrainingPlace(tmp_path, on_step=stop))
    assert bool(checkpoints(tmp_path / "classifier" / "checkpoints")) == (when == 7)
    again, whole = (build_adapter("two-stage", **options) for _ in range(2))
    problem.fit(again, place=TrainingPlace(tmp_path, resume=True))
    problem.fit(whole)
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(logits(again, problem), logits(whole, problem))


def test_a_tower_without_blocks_stays_and_the_report_says_so(make_problem, open_clip_resnet):
    backbone = load_backbone(open_clip_resnet, device="cpu")
    adapter = fitted(make_problem(backbone=backbone))
    names = moved(adapter, backbone)
    assert names and all(name.startswith("transformer.") for name in names)
    assert any("its image tower has no norms to train" in note for note in adapter.report.notes)
    closed = copy.copy(backbone)
    closed.capabilities = frozenset()
    with pytest.raises(CapabilityError, match="no norms that adapter 'two-stage' could train"):
        build_adapter("two-stage")._choose(closed)


def test_pairs_are_refused(small_clip, toy_pairs):
    with pytest.raises(CapabilityError, match="use full or lora"):
        build_adapter("two-stage").fit_pairs(toy_pairs(), small_clip)
