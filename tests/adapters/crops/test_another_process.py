"""What is saved predicts the same in a process of its own; one process for both methods, as towers load slowly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from forked import run

from vladapt.core.contracts import Batch
from vladapt.core.contracts.features import Detection
from vladapt.core.errors import CapabilityError
from vladapt.core.registry import build_adapter, load_adapter

BOXES = [[Detection((3, 2, 20, 7), 0.5, "SEA"), Detection((0, 0, 9, 9), 0.4)]]
CODE = """
import sys
import numpy as np
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts import Batch
from vladapt.core.contracts.resources import Detection
from vladapt.core.registry import load_adapter

folder, backbone = sys.argv[1], load_backbone(sys.argv[2], device="cpu")
boxes = [[Detection((3, 2, 20, 7), 0.5, "SEA"), Detection((0, 0, 9, 9), 0.4)]]
batch = Batch(images=[np.load(folder + "/image.npy")], boxes=boxes)
for name in ("wca", "gc-clip"):
    np.save(f"{folder}/{name}.npy", load_adapter(f"{folder}/{name}.safetensors", backbone).logits(batch).numpy())
"""


def test_another_process_predicts_the_same(random_clip, small_clip_spec, tmp_path):
    said = tuple((f"a thing like {n}.", f"number {n}.") for n in range(4))
    fitted = {
        "wca": random_clip.fit(build_adapter("wca", n_crops=6, templates=["{}"]), seed=5, descriptions=said),
        "gc-clip": random_clip.fit(build_adapter("gc-clip", top_k=2, margins=(0.0, 0.5)), boxes={}),
    }
    batch = Batch(images=random_clip.images[1:2], boxes=BOXES)
    for name, adapter in fitted.items():
        path = adapter.save(tmp_path / f"{name}.safetensors")
        with pytest.raises(CapabilityError, match="load_adapter"):
            load_adapter(path).logits(batch)
    np.save(tmp_path / "image.npy", random_clip.images[1])
    run(["-c", CODE, tmp_path, small_clip_spec], check=True)
    for name, adapter in fitted.items():
        there = torch.from_numpy(np.load(tmp_path / f"{name}.npy"))
        torch.testing.assert_close(there, adapter.logits(batch), atol=1e-4, rtol=1e-5)
