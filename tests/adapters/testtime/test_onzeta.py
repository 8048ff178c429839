"""OnZeta: its loop written out, and what each of its two updates is for."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vladapt.core.contracts import FeatureSet, TextClassifier
from vladapt.core.registry import build_adapter


def streamed(images, text, **options):
    adapter = build_adapter("onzeta", shuffle=False, **options)
    adapter.fit(None, text, unlabeled=images.without_labels())
    return adapter


def written_out(images, text, *, alpha=1.0, beta=0.8, tau_i=0.04, cw=0.5, cr=20.0):
    """(N, C) answers by the loop of the paper, in double precision."""
    n, t = len(images), text.weights.double()
    w, rho, answers = t.clone(), torch.zeros(len(t), dtype=torch.float64), []
    for i, x in enumerate(images.unit.double(), start=1):
        q = (text.logit_scale * t @ x).softmax(dim=0) * rho.exp()
        q = q / q.sum()
        p = (w @ x / tau_i).softmax(dim=0)
        b = beta * math.sqrt(i / n)
        answers.append(b * p + (1 - b) * q)
        rho = (rho - cr / math.sqrt(i) * (q - alpha / len(t))).clamp_min(0)
        w = F.normalize(w - cw / math.sqrt(i) / tau_i * (p - q)[:, None] * x, dim=1)
    return torch.stack(answers)


@pytest.mark.parametrize("given", [{}, {"alpha": 0.5, "beta": 0.3, "tau_i": 0.1, "cw": 0.1, "cr": 2.0}], ids=str)
def test_the_loop_written_out(make_task, given):
    task = make_task(noise=1.6, dim=24)
    names = {"tau_i": "image_temperature", "cw": "proxy_rate", "cr": "balance_rate"}
    adapter = streamed(task.test, task.text, **{names.get(name, name): value for name, value in given.items()})
    torch.testing.assert_close(
        adapter.logits(task.test).exp().double(), written_out(task.test, task.text, **given), atol=1e-5, rtol=1e-3
    )


def test_the_balance_raises_a_class_that_the_texts_forget():
    """Two groups of images which the first text claims both, one of them less surely."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[1.0, 0.05, 0.0, 0.3], [1.0, 0.0, 0.05, -0.3]])
    labels = torch.arange(2).repeat(60)
    images = FeatureSet(centres[labels] + 0.01 * torch.randn(120, 4, generator=generator), labels)
    text = TextClassifier(F.normalize(torch.tensor([[1.0, 0.03, 0.0, 0.02], [0.97, 0.0, 0.2, 0.0]]), dim=1))
    before = (text.logits(images.unit).argmax(dim=1) == labels).double().mean()
    after, without = (
        (streamed(images, text, beta=0.0, balance_rate=rate).logits(images).argmax(dim=1) == labels).double().mean()
        for rate in (20.0, 0.0)
    )
    assert without == before < after


def test_without_proxies_and_balance_it_is_zero_shot(make_task):
    task = make_task(noise=1.6, dim=24)
    logits = streamed(task.test, task.text, beta=0.0, balance_rate=0.0).logits(task.test)
    torch.testing.assert_close(logits.softmax(dim=1), task.text.logits(task.test.unit).softmax(dim=1))


def test_proxies_learn_from_the_images_what_the_texts_say_of_them(make_task):
    task = make_task(noise=1.6, dim=24)
    adapter = streamed(task.test, task.text, proxy_rate=0.05, balance_rate=0.0)
    told = task.text.logits(task.test.unit).softmax(dim=1)
    before, after = (
        -(told * (proxies @ task.test.unit.T / 0.04).T.log_softmax(dim=1)).sum(dim=1).mean()
        for proxies in (task.text.weights, adapter.proxies)
    )
    assert after < 0.9 * before
