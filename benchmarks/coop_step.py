"""One CoOp training step as `coop` takes it, compared with the full 77 tokens for every class.

    python benchmarks/coop_step.py

`coop` cuts prompts to the length of the longest one. A causal tower sees no later tokens, so the context with which all
classes begin runs only once. C 100, batch 32, a text tower of ViT-B/16's size (12 layers, width 512, 8 heads), longest
prompt 24 tokens; the weights are random, which changes no timing. The gradients are compared in the same run.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from timing import median_seconds
from usage import print_help

import vladapt
from vladapt.core.prompts.context import PromptLearner

CONFIG = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
WORDS = "a striped blue white cat"
WAYS = {"trimmed and shared": {}, "trimmed": {"share": False}, "full": {"trim": False, "share": False}}


def backbone(config: dict = CONFIG):
    import open_clip
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp())
    (folder / "b16_text.json").write_text(json.dumps(config))
    torch.manual_seed(0)
    model = open_clip.CLIP(**config)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, str(folder / "w.safetensors"))
    return vladapt.load_backbone(f"open_clip:{folder / 'b16_text.json'}@{folder / 'w.safetensors'}", device="cpu")


def step(learner: PromptLearner, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    learner.ctx.grad = None
    text = learner.encode()
    torch.nn.functional.cross_entropy(100 * images @ text.T, labels).backward()
    return learner.ctx.grad


def problem(tower, classes: int, batch: int = 32) -> tuple[dict[str, PromptLearner], torch.Tensor, torch.Tensor]:
    """A learner for each way, images (B, D) and labels (B,)."""
    names = [" ".join(WORDS.split()[: 1 + i % 5]) for i in range(classes - 1)] + [WORDS]
    torch.manual_seed(1)
    images = torch.nn.functional.normalize(torch.randn(batch, tower.embed_dim), dim=-1)
    labels = torch.randint(classes, (batch,))
    learners = {way: PromptLearner(tower, names, n_ctx=16, seed=1, **options) for way, options in WAYS.items()}
    return learners, images, labels


def gradients_apart(learners: dict[str, PromptLearner], images: torch.Tensor, labels: torch.Tensor) -> float:
    """The largest difference of a gradient from that through all tokens."""
    full, *others = [step(learners[way], images, labels) for way in reversed(WAYS)]
    return max((each - full).abs().max().item() for each in others)


def main() -> None:
    learners, images, labels = problem(backbone(), classes=100)
    longest = learners["trimmed"].mask.sum(dim=1).max().item()
    apart = gradients_apart(learners, images, labels)
    seconds = {way: median_seconds(lambda: step(one, images, labels)) for way, one in learners.items()}  # noqa: B023
    print(f"longest prompt {longest} of 77 tokens; largest difference of the gradients {apart:.1e}")
    for way, took in seconds.items():
        print(f"{way:18} {took:6.2f} s per step, {seconds['full'] / took:5.1f} x")


if __name__ == "__main__":
    print_help(__doc__)
    main()
