"""What is searched by: two embeddings of RDE, in the training, in the run, in its file and in an index."""

import json

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vladapt import DataError, build_adapter, load_adapter, load_backbone
from vladapt.core.backbones.finders import searched
from vladapt.core.backbones.load import save_fine_tuned
from vladapt.core.data.pairs.pair_set import Pair
from vladapt.core.tasks.retrieval.scoring import evaluate_retrieval

TEXTS = ["a red coat", "blue jeans and a bag", "white shoes"]
OPTIONS = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "warmup": 0, "loss": "rde"}
OF_RDE = {"rde": {"selection_dim": 12, "ratio": 0.5, "divide": False}}


@pytest.fixture(scope="module")
def fitted(small_clip_spec, dolls):
    """An adapter, the backbone it was fitted on, and what each validation saw."""
    backbone, seen = load_backbone(small_clip_spec, device="cpu"), []

    def validate(towers):
        seen.append(searched(towers).encode_text(TEXTS).clone())
        return -float(len(seen))  # the first epoch is the best

    adapter = build_adapter("full", select="best_val", loss_options=OF_RDE, **OPTIONS)
    adapter.fit_pairs(dolls(16), backbone, validate=validate, seed=1)
    return adapter, backbone, seen


def test_a_validation_and_the_run_search_by_the_mean_of_both_cosines(fitted, small_clip):
    adapter, backbone, seen = fitted
    towers = adapter.adapted(backbone)
    found = searched(towers)
    assert searched(backbone) is backbone and found.embed_dim == 24 + 12
    assert found.fingerprint not in (towers.fingerprint, backbone.fingerprint)
    texts = found.encode_text(TEXTS)
    torch.testing.assert_close(texts, seen[0])  # the best epoch's towers and embedding, not the last one's
    assert (texts - seen[1]).abs().max() > 1e-4
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    images = found.encode_image(pixels)
    of_towers = towers.encode_image(pixels) @ towers.encode_text(TEXTS).T
    selections = F.normalize(images[:, 24:], dim=1) @ F.normalize(texts[:, 24:], dim=1).T
    torch.testing.assert_close(images @ texts.T, (of_towers + selections) / 2)


def test_it_is_kept_with_the_run_and_with_the_towers(fitted, tmp_path, small_clip_spec):
    adapter, backbone, seen = fitted
    adapter.save(tmp_path / "adapter.safetensors")
    loaded = load_adapter(tmp_path / "adapter.safetensors", backbone).adapted(backbone)
    torch.testing.assert_close(searched(loaded).encode_text(TEXTS), seen[0])
    file = save_fine_tuned(adapter.adapted(backbone), tmp_path / "towers")
    again = load_backbone(str(file), device="cpu")
    torch.testing.assert_close(searched(again).encode_text(TEXTS), seen[0])
    assert searched(again).encode_image(torch.zeros(1, 3, 16, 16)).shape == (1, 36)


@pytest.mark.parametrize("damage", ["loss", "options", "weights"])
def test_a_damaged_file_is_said(fitted, tmp_path, damage):
    adapter, backbone, _ = fitted
    file = save_fine_tuned(adapter.adapted(backbone), tmp_path)
    tensors = load_file(file)
    with safe_open(str(file), framework="pt") as f:
        header = json.loads(f.metadata()["vladapt"])
    told = json.loads(header["finder"])
    if damage == "loss":
        told["loss"] = "clip"
    elif damage == "options":
        told["dims"]["embed_dim"] = 10**9
    else:
        del tensors["vladapt.finder.clean"]
    metadata = {"vladapt": json.dumps({**header, "finder": json.dumps(told)})}
    save_file(tensors, str(file), metadata=metadata)
    with pytest.raises(DataError, match="the embedding that it searches by is damaged"):
        load_backbone(str(file), device="cpu")


class Pairs:
    """Dolls as pairs to be scored."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, row):
        return Pair(str(row), "", None, None, (self.source.text("caption", row, 0),), image=row)

    def load_image(self, row):
        return self.source.image(row)


def test_scores_are_of_what_is_searched_by(fitted, dolls):
    adapter, backbone, _ = fitted
    towers, source = adapter.adapted(backbone), dolls(12)
    images = torch.stack([towers.preprocess(False)(source.image(row)) for row in range(12)])
    texts = [source.text("caption", row, 0) for row in range(12)]
    mean_ranks = []
    for by in (searched(towers), towers):
        cosines = by.encode_image(images) @ by.encode_text(texts).T
        mean_ranks.append(float((cosines >= cosines.diagonal()[:, None]).sum(dim=1).float().mean()))
    found = evaluate_retrieval(towers, Pairs(source), split=None).metrics["image_to_text"]["mean_rank"]
    assert found == pytest.approx(mean_ranks[0]) != mean_ranks[1]
