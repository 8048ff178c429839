"""Towers that are trained on clips: the public code's numbers, steps and attention written out, what is mixed."""

from __future__ import annotations

from copy import deepcopy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from drawn_bars import FRAMES, IN_TOWER, SIDE, clip_item, draw, drawn, logits_of, seeing, seen_of_frames
from parity_checks import video_towers

from vladapt.core.registry import adapter_class
from vladapt.core.training import tower_outputs
from vladapt.core.training.samples import seed_of
from vladapt.core.training.tower_passes import image_features
from vladapt.core.training.tower_weights import copy_of
from vladapt.core.training.views import normalised, pixels_in_8_bits
from vladapt.domains.video.adapters._mixing import box_of, mixed_clips
from vladapt.domains.video.adapters.open_vclip import NeighbouringFrames, chosen_share, windowed
from vladapt.domains.video.adapters.stan import Branch
from vladapt.domains.video.adapters.x_clip import CommunicatingFrames, raw_classes


@pytest.fixture
def pixels(problem):
    return problem.clips(problem.images.items)  # (4, T, 3, S, S)


def moved(module, seed=3):
    """The module with weights that no start leaves at zero."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return module


@pytest.fixture(scope="module")
def joints(problem):
    """What each method hangs on the tower, its weights moved away from their start."""
    made = {
        "x-clip": CommunicatingFrames(problem.backbone, FRAMES, mit_layers=1, prompt_layers=1, alpha=0.1),
        "stan": Branch(problem.backbone, FRAMES, depth=1, drop_path=0.0),
        "open-vclip": NeighbouringFrames(FRAMES),
    }
    return {name: moved(joint).eval() for name, joint in made.items()} | {"vifi-clip": None}


@pytest.mark.parametrize("comparison", video_towers.GROUPS, ids=lambda each: each.run.__name__)
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


@pytest.mark.parametrize("name", ["x-clip", "stan", "open-vclip"])
def test_frames_see_each_other(problem, joints, pixels, name):
    """Another last frame changes what is made of the first one; alone, each clip gives the same."""
    towers = seeing(problem.backbone, joints[name])
    both = towers.encode_image(pixels, normalize=False)
    torch.testing.assert_close(towers.encode_image(pixels[2:], normalize=False), both[2:], rtol=1e-4, atol=1e-5)
    backwards, swapped = pixels.flip(1), pixels[:, [1, 0, 2]]
    if name == "open-vclip":  # its windows have no direction
        torch.testing.assert_close(towers.encode_image(backwards, normalize=False), both, rtol=1e-4, atol=1e-5)
    else:
        assert not torch.allclose(towers.encode_image(backwards, normalize=False), both, atol=1e-3)
    assert not torch.allclose(towers.encode_image(swapped, normalize=False), both, atol=1e-4)
    tokens = {
        "x-clip": lambda clips: towers.joint.tokens(towers, clips),
        "stan": lambda clips: towers.joint.joined(*towers.joint.states(towers, clips)[:2]),
        "open-vclip": lambda clips: seen_of_frames(towers, clips),
    }[name]
    other = pixels.clone()
    other[:, -1] = drawn(*other[:, -1].shape)
    first, again = (tokens(clips).unflatten(0, (-1, FRAMES))[:, 0] for clips in (pixels, other))
    assert not torch.allclose(first, again, atol=1e-3)


def test_frame_averaging_is_what_nothing_added_gives(problem, pixels, joints):
    """vifi-clip before a step, whole; stan's attention in time adds exactly nothing at first."""
    frames = problem.backbone.encode_image(pixels.flatten(0, 1), normalize=False).unflatten(0, (-1, FRAMES))
    expected = F.normalize(frames.mean(dim=1), dim=-1)
    assert torch.equal(image_features(problem.backbone, pixels), expected)
    torch.manual_seed(0)
    start = seeing(problem.backbone, Branch(problem.backbone, FRAMES, depth=2, drop_path=0.1))
    patches = drawn(2, 4, FRAMES, 16)
    assert torch.equal(start.joint.temporal[0].eval()(patches), patches)
    start.joint.time_embed.weight.data.zero_()
    in_order, backwards = (start.encode_image(clips) for clips in (pixels, pixels.flip(1)))
    torch.testing.assert_close(in_order, backwards, rtol=1e-4, atol=1e-6)
    assert not torch.equal(joints["stan"].temporal[0](patches), patches)


def test_attention_over_neighbours_written_out():
    """Frame by frame and head by head; frames that are missing give keys of zero."""
    qkv = drawn(2 * FRAMES, 5, 3 * 8)
    query, key, value = (part.unflatten(-1, (2, 4)).unflatten(0, (2, FRAMES)) for part in qkv.chunk(3, dim=-1))
    wanted = torch.zeros(2, FRAMES, 5, 2, 4)
    for clip in range(2):
        for t in range(FRAMES):
            for head in range(2):
                near = [s for s in (t + 1, t - 1, t) if 0 <= s < FRAMES]
                keys = torch.cat([key[clip, s, :, head] for s in near])
                scores = (query[clip, t, :, head] @ keys.T / 2).exp()
                total = scores.sum(dim=1, keepdim=True) + 5 * (3 - len(near))  # exp(0) of each key that is missing
                values = torch.cat([value[clip, s, :, head] for s in near])
                wanted[clip, t, :, head] = scores / total @ values
    torch.testing.assert_close(windowed(qkv, 2, FRAMES), wanted.flatten(3).flatten(0, 1))


def test_class_texts_look_at_the_clip(problem, joints, pixels):
    """Without what the clip adds to them, scores are cosines to the texts alone."""
    towers, texts = seeing(problem.backbone, joints["x-clip"]), raw_classes(problem.backbone, problem.classifier.texts)
    scores = towers.joint.cosines(towers, pixels, texts)
    towers.joint.prompts_generator.alpha.data.zero_()
    plain = towers.encode_image(pixels) @ F.normalize(texts, dim=-1).T
    torch.testing.assert_close(towers.joint.cosines(towers, pixels, texts), plain)
    assert not torch.allclose(scores, plain, atol=1e-3)


PLAIN = {
    "x-clip": {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.2, "prompts_a_class": None},
    "vifi-clip": {"mixup": 0.0, "cutmix": 0.0, "label_smoothing": 0.2, "prompts_a_class": None},
    "stan": {"clip_grad": None},
    "open-vclip": {"patching_ratio": 0.0, "sample_range": (0.4, 0.4), "loss_ratio": 0.5},
}


@pytest.mark.parametrize("name", IN_TOWER)
def test_one_step_written_out(problem, joints, monkeypatch, name):
    """All weights after a step of AdamW: the rate of what is new ten times the rate, no decay on vectors."""
    monkeypatch.setattr(adapter_class(name), "_joint", lambda self, backbone: deepcopy(joints[name]))
    options = {"weight_decay": 0.3, **PLAIN[name]}
    adapter = problem.fit(name, **options)
    towers = copy_of(problem.backbone)
    start = {n: p.detach().clone() for n, p in towers.model.named_parameters()}
    if joints[name] is not None:
        deepcopy(joints[name]).attach(towers)
    trained = {
        n: p.requires_grad_()
        for n, p in towers.model.named_parameters()
        if n.startswith(("visual.", "joint.")) or name in ("vifi-clip", "stan")
    }
    if name == "open-vclip":
        trained["logit_scale"] = towers.model.logit_scale.requires_grad_()
    if name == "stan":
        trained.pop("logit_scale").requires_grad_(False)
    views = [problem.images.train_transform(draw(item), seed=seed_of(1, 0, i, 0)) for i, item in rows(problem)]
    clips, labels = torch.stack(views), torch.tensor([item.class_label() for _, item in rows(problem)])
    smoothing = options.get("label_smoothing", 0.0)

    def gradients():
        loss = F.cross_entropy(logits_of(name, towers, clips, problem), labels, label_smoothing=smoothing)
        return torch.autograd.grad(loss, list(trained.values()), allow_unused=True)

    found = list(gradients())
    if name == "open-vclip":
        now = {n: p.detach().clone() for n, p in trained.items()}
        for n, p in trained.items():
            p.data.copy_(0.4 * start[n] + 0.6 * now[n])
        found = [one if one is None else one + 0.5 * other for one, other in zip(found, gradients())]
        for n, p in trained.items():
            p.data.copy_(now[n])
    compared, betas, eps = 0, ((0.9, 0.999) if name == "open-vclip" else (0.9, 0.98)), 1e-8
    for (n, parameter), gradient in zip(trained.items(), found):
        if gradient is None:
            continue
        parameter.grad = gradient
        rate = 1e-2 if n.startswith("joint.") else 1e-3
        decay = 0.0 if parameter.ndim < 2 or "bias" in n else 0.3
        torch.optim.AdamW([parameter], lr=rate, betas=betas, eps=eps, weight_decay=decay).step()
        ours = adapter._made.model.get_parameter(n)
        sure = gradient.abs() > max(1e-6, 0.01 * gradient.abs().max())  # elsewhere rounding chooses the sign
        torch.testing.assert_close(ours[sure], parameter[sure], rtol=1e-3, atol=2e-5, msg=n)
        assert (ours - parameter).abs().max() <= 2.01 * rate, n
        compared += int(sure.sum())
    assert compared > 5_000
    assert adapter.report.trained_parameters == sum(p.numel() for p in trained.values())
    assert {n.partition(".")[0] for n in adapter.changed} <= {n.partition(".")[0] for n in trained}


def rows(problem):
    return list(enumerate(problem.images.items))


def test_frames_travel_in_8_bits(problem, monkeypatch):
    """And are to the bit what the transform makes of them, once normalised on the device."""
    view = problem.images.train_transform(draw(clip_item(3)), seed=5)
    packed, seen = pixels_in_8_bits(view, problem.backbone), []
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (problem.backbone.image_mean, problem.backbone.image_std))
    assert packed.dtype == torch.uint8 and torch.equal(normalised(packed, mean, std), view)
    monkeypatch.setattr(tower_outputs, "normalised", lambda value, *how: seen.append(value) or normalised(value, *how))
    problem.fit("full")
    assert [(value.dtype, tuple(value.shape)) for value in seen] == [(torch.uint8, (4, FRAMES, 3, SIDE, SIDE))]


def test_mixing_written_out():
    """Shares of pixels and of classes agree, whichever way a batch is mixed."""
    pixels, labels = drawn(6, 2, 3, 8, 10), torch.tensor([0, 1, 2, 0, 1, 2])
    kinds = set()
    for seed in range(12):
        how = {"classes": 3, "alphas": (0.8, 1.0), "share": 0.5}
        made = mixed_clips({"pixels": pixels, "labels": labels}, np.random.default_rng(seed), **how)
        rng = np.random.default_rng(seed)
        cuts = rng.random() < 0.5
        kept, partners = rng.beta(*((1.0, 1.0) if cuts else (0.8, 0.8))), torch.from_numpy(rng.permutation(6))
        wanted = kept * pixels + (1 - kept) * pixels[partners]
        if cuts:
            top, left, bottom, right = box_of(8, 10, kept, rng)
            wanted = pixels.clone()
            wanted[..., top:bottom, left:right] = pixels[partners][..., top:bottom, left:right]
            kept = 1 - (bottom - top) * (right - left) / 80
        kinds.add(cuts)
        one_hot = F.one_hot(labels, 3).float()
        torch.testing.assert_close(made["pixels"], wanted)
        torch.testing.assert_close(made["labels"], kept * one_hot + (1 - kept) * one_hot[partners])
    assert kinds == {True, False}
    how = {"classes": 3, "alphas": (0.0, 1.0), "share": 0.0}
    only = mixed_clips({"pixels": pixels, "labels": labels}, np.random.default_rng(0), **how)
    assert all((pixels == value).any() for value in only["pixels"].flatten()[:50])  # cut, never blended


def test_the_share_of_clip_is_chosen_on_val():
    scores = {0.3: 0.9, 0.4: 0.9, 0.6: 0.9, 0.7: 0.9}
    assert chosen_share(None, lambda share: scores.get(share, 0.1)) == 0.4
    assert chosen_share(None, None) == 0.5 and chosen_share(0.0, lambda share: share) == 0.0
