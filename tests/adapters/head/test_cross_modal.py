from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.head import cross_modal

from vladapt.adapters.head import cross_modal as cross_modal_file
from vladapt.core.contracts import TextClassifier
from vladapt.core.registry import build_adapter

POINT = {"lr": 0.01, "weight_decay": 0.1, "batch_size": 8}
SHORT = {"iterations": 12, "warmup": 3, "eval_every": 4}


def fitted(task, val=False, seed=0, **options):
    adapter = build_adapter("cross-modal", **{**SHORT, **options})
    adapter.report = adapter.fit(task.support, task.text, val=task.val if val else None, seed=seed)
    return adapter


@pytest.fixture
def task(make_task):
    """Two prompts of every class but one, which has three; texts with lengths."""
    task = make_task(shots=3, noise=2.0)
    generator = torch.Generator().manual_seed(5)
    prompts = [F.normalize(row + 0.3 * torch.randn(3 if c == 2 else 2, 16, generator=generator), dim=1)
               for c, row in enumerate(task.text.weights)]  # fmt: skip
    raw = torch.stack([(rows * torch.arange(4.0, 4 + len(rows))[:, None]).mean(dim=0) for rows in prompts])
    return replace(task, text=replace(task.text, prototypes=tuple(prompts), unnormalized=raw))


@pytest.fixture
def batches(monkeypatch):
    """What every training saw: indices of images and of prompts, step by step."""
    seen, original = [], cross_modal_file._Samples.at

    def at(self, image, text):
        seen.append((image.tolist(), text.tolist()))
        return original(self, image, text)

    monkeypatch.setattr(cross_modal_file._Samples, "at", at)
    return seen


def test_agrees_with_the_reference(agrees):
    agrees(cross_modal)


def test_the_training_is_the_published_loop(task, batches):
    """Written out with torch's own AdamW; prompts are samples like images."""
    adapter = fitted(task, **POINT)
    prompts = torch.cat(task.text.prototypes)
    classes = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, 3, 4, 4])
    head = F.normalize(task.text.unnormalized, dim=1).clone().requires_grad_()
    optimizer = torch.optim.AdamW([head], lr=POINT["lr"], weight_decay=POINT["weight_decay"])
    # every class has three images: the loss is the published one, whatever the numbers of prompts
    for step, (image, text) in enumerate(batches):
        warm = 1e-5 if step == 0 else POINT["lr"] * step / 3
        rate = warm if step < 3 else POINT["lr"] * (1 + math.cos(math.pi * (step - 3) / 12)) / 2
        optimizer.param_groups[0]["lr"] = rate
        rows = torch.cat([task.support.unit[image], prompts[text]])
        labels = torch.cat([task.support.labels[image], classes[text]])
        optimizer.zero_grad()
        F.cross_entropy(100 * rows @ head.T, labels).backward()
        optimizer.step()
    assert len(batches) == 12 and all(len(image) == len(text) == 4 for image, text in batches)
    torch.testing.assert_close(adapter.weights, head.detach(), atol=1e-5, rtol=1e-4)
    expected = 100 * task.test.unit @ head.detach().T  # the head is not normalised
    torch.testing.assert_close(adapter.logits(task.test), expected, atol=1e-2, rtol=1e-4)


def test_every_pass_sees_every_prompt_and_image_once(task, batches):
    fitted(task, **POINT, iterations=30)
    for size, place in ((15, 0), (11, 1)):
        steps = size // 4  # an incomplete last batch is left out
        for start in range(0, 30 - steps, steps):
            seen = [row for batch in batches[start : start + steps] for row in batch[place]]
            assert len(set(seen)) == len(seen) == 4 * steps


def test_prompts_can_be_left_out(task, batches):
    without = fitted(task, **POINT, prompts=False)
    assert all(len(image) == 8 and not text for image, text in batches)
    assert not torch.allclose(without.weights, fitted(task, **POINT).weights)


def test_the_first_best_look_at_val_is_kept_and_the_last_steps_are_none(task):
    adapter = fitted(task, val=True, **POINT)
    looks = [(row["step"], row["val_score"]) for row in adapter.report.history]
    assert [step for step, _ in looks] == [0, 4, 8]  # of 12 steps, so that 9 to 11 are in no candidate
    best = max(score for _, score in looks)
    assert adapter.report.chosen["step"] == next(step for step, score in looks if score == best)
    assert adapter.report.val_score == best and adapter.report.chosen_on == "val (30 images)"
    right = (adapter.predict(task.val) == task.val.labels).double().mean()
    assert float(right) == best


def test_the_grid_is_searched_on_val(make_task, monkeypatch):
    monkeypatch.setattr(cross_modal_file, "RATES", (0.1, 1e-3))
    task = make_task(shots=16, noise=2.0, text_noise=3.0)
    many = replace(task, text=replace(task.text, prototypes=tuple(row.expand(20, -1) for row in task.text.weights)))
    longer = {"val": True, "iterations": 60, "ties": "published"}
    report = fitted(many, **longer).report
    scores = {}
    for lr in (0.1, 1e-3):
        for decay in (0.0, 1e-2, 1e-4):
            for size in (8, 32):
                point = {"lr": lr, "weight_decay": decay, "batch_size": size}
                scores[lr, decay, size] = fitted(many, **longer, **point).report.val_score
    best = max(scores, key=scores.get)  # the first of a tie, in the order of the published loops
    assert len(set(scores.values())) > 1 and report.val_score == scores[best]
    assert tuple(report.chosen[name] for name in POINT) == best


def test_batches_that_a_set_does_not_exceed_are_left_out_of_the_grid(make_task):
    task = make_task(shots=16)
    axes = {}
    for prompts in (1, 2, 4):
        text = replace(task.text, prototypes=tuple(row.expand(prompts, -1) for row in task.text.weights))
        adapter = build_adapter("cross-modal")
        axes[prompts] = adapter._axes(adapter._samples(task.support, text), searched=True)["batch_size"]
    assert axes == {1: (8,), 2: (8,), 4: (8, 32)}  # 5, 10 and 20 prompts
    two = make_task(classes=2, shots=1)
    assert fitted(two, val=True).report.chosen["batch_size"] == 8  # 2 images and 2 prompts, taken whole


def test_held_out_images_choose_and_all_are_trained_on_for_as_many_steps(make_task, batches):
    task = make_task(shots=8, noise=2.5)
    report = fitted(task, **POINT).report
    assert report.chosen_on == "10 images held out of the support"
    first = [row for row in report.history if not row["refit"]]
    again = [row for row in report.history if row["refit"]]
    assert again[-1]["step"] == report.chosen["step"] and first[-1]["step"] == 8
    assert max(max(image) for image, _ in batches[:9]) < 30 <= max(max(image) for image, _ in batches[9:])


def test_settled_it_ends_where_val_said(task):
    """With val as further shots nothing is left to choose on."""
    adapter = fitted(task, val=True, **POINT, iterations=30)
    settled = adapter.settled(adapter.report)
    assert settled == {**POINT, "stop": adapter.report.chosen["step"] + 1}
    again = fitted(task, val=True, iterations=30, **settled)
    assert torch.equal(again.weights, adapter.weights) and again.report.chosen_on == "given as options"


def test_with_too_few_shots_the_last_step_of_one_training_is_kept(task):
    report = fitted(task).report
    assert report.chosen == {"lr": 1e-3, "weight_decay": 1e-2, "batch_size": 8, "step": 11}
    assert report.chosen_on.startswith("defaults") and report.val_score is None


def test_half_of_each_head_is_the_wise_ft_row(task):
    trained, half, none = (fitted(task, **POINT, trained_share=share).weights for share in (1.0, 0.5, 0.0))
    zero_shot = F.normalize(task.text.unnormalized, dim=1)
    torch.testing.assert_close(none, zero_shot)
    torch.testing.assert_close(half, (trained + zero_shot) / 2)


def test_unequal_classes_are_adjusted_by_images_and_prompts_together(make_task):
    """A rare class has as many prompts as others, and so no smaller share of the prompts."""
    task = make_task(shots=[1, 7, 2, 16, 5])
    samples = build_adapter("cross-modal")._samples(task.support, task.text)
    expected = (torch.tensor([1, 7, 2, 16, 5]) / 31 / 2 + 0.1).log()
    torch.testing.assert_close(samples.log_priors(), expected)
    even = make_task()
    assert torch.equal(fitted(even, **POINT).weights, fitted(even, **POINT, class_weight="none").weights)
    few = make_task(shots=[1, 3, 2, 3, 2])
    assert not torch.equal(fitted(few, **POINT).weights, fitted(few, **POINT, class_weight="none").weights)


def test_views_are_further_images(make_task):
    task = make_task(shots=3, views=4)
    samples = build_adapter("cross-modal", views=2)._samples(task.support, task.text)
    views = F.normalize(task.support.views, dim=-1)
    torch.testing.assert_close(samples.images, torch.cat([task.support.unit, views[:, 0], views[:, 1]]))
    assert torch.equal(samples.labels, task.support.labels.repeat(3))
    assert len(build_adapter("cross-modal")._samples(task.support, task.text).images) == 30


def test_a_random_start_is_drawn_by_the_seed(task):
    one, same, other = (fitted(task, seed=seed, init="random", lr=1e-9).weights for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.allclose(one, other, atol=1e-3)
    assert one.abs().max() <= 0.25 and one.abs().max() > 0.2  # uniform within 1 / sqrt(16)


def test_without_lengths_the_start_is_the_unit_mean_of_unit_prompts(make_task):
    task = make_task()
    text = TextClassifier(task.text.weights)
    assert torch.equal(fitted(replace(task, text=text), trained_share=0.0).weights, text.weights)
