"""Small CLIPs whose texts differ, and pictures of two coloured shapes each."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from vladapt.core.testing.thread_ranks import as_ranks

COLOURS = {"red": (230, 30, 30), "green": (30, 200, 30), "blue": (30, 60, 230)}
NAMES = tuple(f"{colour} shape" for colour in COLOURS)
SIDE = 32
VIT = {"image_size": SIDE, "layers": 1, "width": 48, "patch_size": 8, "head_width": 24}
RESNET = {"image_size": SIDE, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
TEXT = {"context_length": 16, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture(autouse=True)
def _seeded():
    """What a test draws is the same in every run."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def region_towers(tmp_path_factory) -> dict[str, str]:
    """ "vit" and "resnet" -> spec of a random CLIP, D = 24; words are far apart for its text tower."""
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    from safetensors.torch import save_file

    from vladapt.core.testing.towers import drawn_clip

    made = {}
    for name, vision in {"vit": VIT, "resnet": RESNET}.items():
        folder = tmp_path_factory.mktemp(name)
        config = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": vision, "text_cfg": TEXT}
        (folder / "tiny.json").write_text(json.dumps(config))
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = drawn_clip(config)
            model.token_embedding.weight.data.mul_(20)
            for block in model.transformer.resblocks:
                block.attn.out_proj.weight.data.mul_(20)
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, folder / "tiny.safetensors")
        made[name] = f"open_clip:{folder / 'tiny.json'}@{folder / 'tiny.safetensors'}"
    return made


def draw(seed: int) -> dict:
    """A BGR picture, one shape on the left and another on the right, of two colours, as mmdet's pipelines pack it."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(seed)
    picture = rng.integers(90, 140, (SIDE, SIDE, 3))
    labels, boxes = rng.permutation(len(COLOURS))[:2], []
    for place, label in enumerate(labels):
        side = int(rng.integers(9, 14))
        left, top = place * 16 + int(rng.integers(0, 16 - side)), int(rng.integers(0, SIDE - side))
        colour = list(COLOURS.values())[label]
        picture[top : top + side, left : left + side] = colour
        boxes.append([left, top, left + side, top + side])
    sample = DetDataSample(metainfo={"img_shape": (SIDE, SIDE), "img_id": seed, "scale_factor": (1.0, 1.0)})
    sample.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32), labels=torch.as_tensor(labels.copy())
    )
    said = " and ".join(f"a {NAMES[label]}" for label in labels)
    sample.set_metainfo({"caption": said})
    bgr = np.ascontiguousarray(picture[..., ::-1].astype(np.uint8))
    return {"inputs": torch.from_numpy(bgr).permute(2, 0, 1).contiguous(), "data_samples": sample}


class Shapes(torch.utils.data.Dataset):
    """Pictures `first` to `first + count`."""

    def __init__(self, first: int, count: int):
        self.first, self.count = first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict:
        return draw(self.first + index)


@pytest.fixture(scope="session")
def shapes() -> Callable[[int, int], Shapes]:
    """shapes(first, count): a data set."""
    return Shapes


@pytest.fixture(scope="session")
def packed(shapes):
    """packed(first, count): one batch of them, as a data loader gives it."""

    def make(first: int, count: int) -> dict:
        items = [draw(first + index) for index in range(count)]
        return {key: [item[key] for item in items] for key in ("inputs", "data_samples")}

    return make


@pytest.fixture
def trained(tmp_path, shapes):
    """trained(model config, steps, lr): a Runner that has trained on 64 pictures, batches of 16."""
    from mmengine.runner import Runner

    def train(model: dict, steps: int, lr: float, **options) -> Runner:
        loader = {
            "dataset": shapes(0, 64),
            "batch_size": 16,
            "num_workers": 0,
            "sampler": {"type": "InfiniteSampler", "seed": 0},
            "collate_fn": {"type": "pseudo_collate"},
        }
        runner = Runner(
            model=model,
            work_dir=str(tmp_path / "run"),
            train_dataloader=loader,
            train_cfg={"by_epoch": False, "max_iters": steps},
            optim_wrapper={"optimizer": {"type": "AdamW", "lr": lr}},
            default_hooks={
                "checkpoint": {"type": "CheckpointHook", "interval": steps, "by_epoch": False},
                "logger": {"type": "LoggerHook", "interval": steps},
            },
            default_scope="mmdet",
            randomness={"seed": 0},
            log_level="ERROR",
            experiment_name=f"shapes-{tmp_path.name}",
            **options,
        )
        runner.train()
        return runner

    return train


@pytest.fixture(scope="session")
def accuracy(packed):
    """accuracy(model): share of 48 regions it never saw, in 24 pictures of two each, that it names right."""

    @torch.no_grad()
    def measure(model) -> float:
        model.eval()
        batch = packed(1000, 24)
        truth = torch.cat([sample.gt_instances.labels for sample in batch["data_samples"]])
        found = torch.cat([sample.pred_instances.labels for sample in model.test_step(batch)])
        return float((found == truth).float().mean())

    return measure


@pytest.fixture
def alike_on_two_ranks(packed):
    """`check(model, losses)`: where each of two ranks has half of the images, the mean of their gradients is that of
    one process with all."""

    def check(model, losses) -> None:
        def gradients(batch: dict) -> dict[str, torch.Tensor]:
            own = copy.deepcopy(model)
            sum(losses(own, batch).values()).backward()
            return {name: p.grad for name, p in own.named_parameters() if p.grad is not None}

        one, ranks = gradients(packed(0, 4)), as_ranks(2, lambda rank: gradients(packed(2 * rank, 2)))
        assert one
        for name, gradient in one.items():
            mean = (ranks[0][name] + ranks[1][name]) / 2
            torch.testing.assert_close(mean, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max() + 1))

    return check
