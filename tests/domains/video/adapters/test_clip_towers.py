"""Towers that are trained on clips: the public code's numbers, steps and attention written out, files, frames."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from parity_checks import video_towers
from PIL import Image
from torch import nn

from vladapt import (
    Batch,
    FeatureSet,
    Item,
    Label,
    build_adapter,
    build_classifier,
    fit,
    load_adapter,
    load_backbone,
    predict,
)
from vladapt.core.backbones.joint_parts import attach_joint, chosen_parts
from vladapt.core.contracts import TrainingImages
from vladapt.core.contracts.domain import DomainData
from vladapt.core.errors import CapabilityError
from vladapt.core.features.store import FeatureStore
from vladapt.core.registry import adapter_class
from vladapt.core.training import tower_outputs
from vladapt.core.training.samples import seed_of
from vladapt.core.training.teacher import copy_of
from vladapt.core.training.tower_passes import image_features
from vladapt.core.training.views import in_8_bits, normalised
from vladapt.domains.video import Video
from vladapt.domains.video.adapters._mixing import box_of, mixed
from vladapt.domains.video.adapters.open_vclip import NeighbouringFrames, chosen_share, windowed
from vladapt.domains.video.adapters.stan import Branch
from vladapt.domains.video.adapters.x_clip import CommunicatingFrames, raw_classes
from vladapt.domains.video.transforms import EachFrame, WholeClip, as_frames

FRAMES, SIDE = 3, 32
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": SIDE, "layers": 2, "width": 16, "patch_size": 16, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
IN_TOWER = ("x-clip", "stan", "vifi-clip", "open-vclip")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw(item):
    """A bar that moves down (class 0) or up (class 1), on noise; (T, H, W, 3)."""
    index, label = item.decode["index"], item.decode["of"]
    frames = np.random.default_rng(index).integers(0, 60, (item.decode["frames"], 40, 40, 3)).astype(np.uint8)
    for number, frame in enumerate(frames):
        top = 12 * (number if label == 0 else len(frames) - 1 - number)
        frame[top : top + 8] = 220
    return frames


def clip_item(index, frames=FRAMES):
    return Item(f"clip-{index}", Path(__file__), {"index": index, "of": index % 2, "frames": frames}, Label(index % 2))


@dataclass(frozen=True)
class Problem:
    backbone: object
    classifier: object
    images: TrainingImages

    def fit(self, name, **options):
        images = self.images
        adapter = build_adapter(name, **{"epochs": 1, "batch_size": 4, "lr": 1e-3, **options})
        features = torch.stack([image_features(self.backbone, clip[None])[0] for clip in self.clips(images.items)])
        labels = torch.tensor([item.class_label() for item in images.items])
        support = FeatureSet(features, labels, self.classifier.class_names, backbone=self.backbone.fingerprint)
        given = {"backbone": self.backbone, "resources": {"images": images}, "seed": 1}
        adapter.report = adapter.fit(support, self.classifier, **given)
        return adapter

    def clips(self, items):
        return torch.stack([as_frames(self.images.eval_transform(self.images.load(item)), FRAMES) for item in items])


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    path = tmp_path_factory.mktemp("small-vit") / "vit.json"
    path.write_text(json.dumps(SMALL))
    return f"open_clip:{path}@random:0"


@pytest.fixture(scope="module")
def problem(spec):
    """Four clips of two classes that differ by the order of their frames, two more to choose on."""
    backbone = load_backbone(spec, device="cpu")
    backbone.model.token_embedding.weight.data.mul_(10)
    classifier = build_classifier(backbone, ("down", "up"), ["a clip of {}.", "{}"])
    transforms = EachFrame(backbone.preprocess(True)), EachFrame(backbone.preprocess(False))
    items, val = [clip_item(i) for i in range(4)], [clip_item(i) for i in range(4, 6)]
    images = TrainingImages(items, draw, *transforms, classifier.texts, None, ["a clip of {}.", "{}"], val)
    return Problem(backbone, classifier, images)


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


def seeing(backbone, joint):
    """A copy of the backbone with a copy of what sees frames together."""
    towers = copy_of(backbone)
    if joint is not None:
        attach_joint(towers, deepcopy(joint).requires_grad_(False)).eval()
    return towers


# What is seen ---------------------------------------------------------------------------------------------------------


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


def seen_of_frames(towers, clips):
    """Unit features of the frames, before they are averaged."""

    def attention(index, block, x):
        return block.out(windowed(block.qkv(x), block.num_heads, FRAMES))

    x = towers.run_blocks("image", towers.embed_image(clips.flatten(0, 1)), attention=attention)
    return towers.pool_image(x)


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


# Training -------------------------------------------------------------------------------------------------------------


def logits_of(name, towers, clips, problem):
    """Written out for each method."""
    texts, scale = problem.classifier.texts, towers.model.logit_scale.exp()
    if name == "x-clip":
        raw = torch.stack([towers.encode_text(some, normalize=False).mean(dim=0) for some in texts])
        return scale * towers.joint.cosines(towers, clips, raw.detach())
    if name == "open-vclip":
        unit = F.normalize(torch.stack([towers.encode_text(some).mean(dim=0) for some in texts]), dim=-1).detach()
        return scale * seen_of_frames(towers, clips).unflatten(0, (-1, FRAMES)).mean(dim=1) @ unit.T
    unit = F.normalize(torch.stack([towers.encode_text(some).mean(dim=0) for some in texts]), dim=-1)
    return scale * image_features(towers, clips) @ unit.T


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
        attach_joint(towers, deepcopy(joints[name]))
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
    packed, seen = in_8_bits(view, problem.backbone), []
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
        made = mixed({"pixels": pixels, "labels": labels}, np.random.default_rng(seed), **how)
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
    only = mixed({"pixels": pixels, "labels": labels}, np.random.default_rng(0), **how)
    assert all((pixels == value).any() for value in only["pixels"].flatten()[:50])  # cut, never blended


def test_the_share_of_clip_is_chosen_on_val():
    scores = {0.3: 0.9, 0.4: 0.9, 0.6: 0.9, 0.7: 0.9}
    assert chosen_share(None, lambda share: scores.get(share, 0.1)) == 0.4
    assert chosen_share(None, None) == 0.5 and chosen_share(0.0, lambda share: share) == 0.0


# Files and frames -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(problem):
    return {name: problem.fit(name) for name in IN_TOWER}


@pytest.mark.parametrize("name", IN_TOWER)
def test_a_file_gives_the_same_towers_and_scores_of_decoded_clips(problem, fitted, spec, tmp_path, name):
    adapter, items = fitted[name], problem.images.val
    fresh = copy_of(problem.backbone)
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert again.frames == FRAMES
    towers = again.adapted(fresh)
    clips = problem.clips(items)
    assert torch.equal(image_features(towers, clips), image_features(adapter._made, clips))
    transform = Video().transforms(towers, False)
    data = DomainData(list(items), problem.classifier.class_names, draw)
    features = FeatureStore(keep=False).get_or_compute(data, items, towers, transform, batch_size=2).features
    torch.testing.assert_close(features.features, unnormalised(towers, clips), rtol=1e-4, atol=1e-5)
    base = Video().transforms(fresh, False)
    batch = Batch(features=features.features, images=[draw(item) for item in items], transform=base)
    expected = logits_of(name, towers, clips, problem) if name in ("open-vclip", "stan") else None
    logits = again.logits(batch)
    torch.testing.assert_close(logits, adapter.logits(batch), rtol=1e-5, atol=1e-5)
    if expected is not None:
        torch.testing.assert_close(logits, expected, rtol=1e-3, atol=1e-3)


def unnormalised(towers, clips):
    if towers.joint is not None:
        return towers.encode_image(clips, normalize=False)
    return towers.encode_image(clips.flatten(0, 1), normalize=False).unflatten(0, (-1, FRAMES)).mean(dim=1)


def test_whole_clips_of_several_crops_are_averaged(problem, fitted):
    adapter, clip = fitted["x-clip"], draw(clip_item(5))[:, :, :36]
    crops = EachFrame(problem.backbone.preprocess(False), crops=3)
    whole = WholeClip(crops, FRAMES)(clip)
    assert whole.shape == (3, FRAMES, 3, SIDE, SIDE) and crops.spec != WholeClip(crops, FRAMES).spec
    one_by_one = [adapter.logits(Batch(images=[clip], transform=lambda _, each=each: each)) for each in whole]
    mean = torch.cat(one_by_one).mean(dim=0, keepdim=True)
    torch.testing.assert_close(adapter.logits(Batch(images=[clip], transform=crops)), mean, rtol=1e-4, atol=1e-4)


def test_clips_of_other_lengths(problem, fitted):
    """Frames at even steps, the first and the last among them: repeated where there are fewer."""
    numbers = torch.arange(5)
    assert chosen_parts(numbers, 3).tolist() == [0, 2, 4] and chosen_parts(numbers[:2], 5).tolist() == [0, 0, 0, 1, 1]
    assert chosen_parts(numbers, 5) is numbers
    items = [clip_item(i, frames) for i, frames in enumerate((3, 2, 5, 1))]
    images = TrainingImages(items, draw, *transforms_of(problem), problem.classifier.texts)
    assert Problem(problem.backbone, problem.classifier, images).fit("stan").frames == 3
    long, short = draw(clip_item(0, 5)), draw(clip_item(0, 5))[[0, 2, 4]]
    batches = [Batch(images=[clip], transform=problem.images.eval_transform) for clip in (long, short)]
    assert torch.equal(*(fitted["x-clip"].logits(batch) for batch in batches))


def transforms_of(problem):
    return problem.images.train_transform, problem.images.eval_transform


@pytest.mark.parametrize("name", IN_TOWER)
def test_towers_without_blocks_are_refused_in_one_line(name):
    says = "no transformer blocks of the image tower; towers that have it"
    with pytest.raises(CapabilityError, match=says) as raised:
        build_adapter(name).check_towers(load_backbone("embedded", device="cpu"))
    assert "\n" not in str(raised.value)


def test_a_tower_sees_parts_by_one_thing_at_most(problem):
    towers = seeing(problem.backbone, NeighbouringFrames(FRAMES))
    with pytest.raises(CapabilityError, match="sees the parts of a sample together already"):
        attach_joint(towers, NeighbouringFrames(FRAMES))
    with pytest.raises(CapabilityError, match="positions for 64 frames, and a clip has 65"):
        Branch(problem.backbone, 65, depth=1, drop_path=0.0)
    assert isinstance(towers.joint, nn.Module) and problem.backbone.joint is None


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eight clips of each class as folders of frames."""
    root = tmp_path_factory.mktemp("bars")
    for index in range(16):
        clip = root / ("down", "up")[index % 2] / str(index)
        clip.mkdir(parents=True)
        for number, frame in enumerate(draw(clip_item(index))):
            Image.fromarray(frame).save(clip / f"{number}.png")
    return root


@pytest.mark.parametrize("name", ["x-clip", "full", "lora"])
def test_clips_are_fitted_and_named_by_the_engine(folder, spec, tmp_path, name):
    how = {"epochs": 1, "batch_size": 4, "lr": 1e-3}
    data = {"frames": FRAMES, "path": str(folder)}
    result = fit(domain="video", data=data, adapter={"name": name, **how}, backbone=spec, shots=3, seed=1, out=tmp_path)
    assert 0 <= result.metrics["adapted"]["accuracy"] <= 1 and result.metrics["zero_shot"]["accuracy"] <= 1
    rows = predict(result.run, [folder / "up" / "1"]).rows()
    assert len(rows) == 1 and rows[0]["id"].endswith("up/1") and rows[0]["label"] in ("down", "up")
