"""The configs of docs/open-vocab-denseclip-segclip.md run as they stand there, on small towers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

import vladapt.domains.open_vocab  # noqa: F401  the stand-in comes before any mm package

PAGE = Path(__file__).resolve().parents[2] / "docs" / "open-vocab-denseclip-segclip.md"
TEXT = {"context_length": 16, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
VIT = {"image_size": 32, "layers": 3, "width": 32, "patch_size": 8, "head_width": 16}


def shown(number):
    """What a block of Python on the page defines."""
    defined = {}
    exec(re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)[number], defined)
    return defined


@pytest.fixture
def tower(tmp_path):
    def write(vision):
        (tmp_path / "tiny.json").write_text(json.dumps({"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT}))
        return f"open_clip:{tmp_path / 'tiny.json'}@random"

    return write


def test_the_segmentor_shown_gives_a_score_to_each_class(tower):
    from vladapt.registry import MODELS

    model = MODELS.build({**shown(0)["model"], "backbone": tower(RESNET)}).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64), mode="tensor").shape == (1, 3, 16, 16)
    assert model.neck.in_channels == [32, 64, 128, 256 + 3]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_segclip_shown_takes_a_step_on_what_its_pipeline_packs(tower, tmp_path):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    from mmengine.dataset import Compose, pseudo_collate
    from mmengine.optim import build_optim_wrapper
    from PIL import Image

    from vladapt.registry import MODELS, TRANSFORMS

    page = shown(1)
    torch.manual_seed(0)
    model = MODELS.build({**page["model"], "backbone": tower(VIT), "decoder": {"heads": 2}})
    samples = []
    for number, caption in enumerate(("a cat", "two dogs")):
        path = tmp_path / f"{number}.png"
        noise = np.random.default_rng(number).integers(0, 255, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(noise).save(path)
        steps = [
            step if "." in step["type"] else {**step, "type": f"mmseg.{step['type']}"}
            for step in page["train_pipeline"]
        ]
        samples.append(Compose([TRANSFORMS.build(step) for step in steps])({"img_path": str(path), "caption": caption}))
    wrapper = build_optim_wrapper(model, page["optim_wrapper"])
    rates = {id(value): group["lr"] for group in wrapper.param_groups for value in group["params"]}
    assert rates[id(model.clip.visual.proj)] == 4e-3
    assert rates[id(model.clip.text_projection)] == pytest.approx(4e-6)
    assert all(torch.isfinite(value) for value in model.train_step(pseudo_collate(samples), wrapper).values())
