"""Modules become files of ONNX that answer as they do, for any number of rows."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from vladapt.adapters.blocks import in_blocks
from vladapt.core.backbones.spec_options import Reduction
from vladapt.core.backbones.token_merging import MergedTokens
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.export.agreement import Agreement, agreement_sentence
from vladapt.core.export.folder import Session
from vladapt.core.export.graph import Graph, check_opset, write_in_8_bits
from vladapt.core.testing.towers import small_clip

onnx = pytest.importorskip("onnx", reason="extra export is not installed")
pytest.importorskip("onnxruntime", reason="extra export is not installed")


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(3, 8, 3, stride=2), nn.Conv2d(8, 8, 3), nn.Linear(8, 4)

    def forward(self, pixels):
        features = self.second(self.first(pixels).relu()).relu().mean(dim=(2, 3))
        return self.head(features), features


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A module, and its file."""
    module, path = Small(), tmp_path_factory.mktemp("graph") / "model.onnx"
    graph = Graph(module, {"pixels": torch.rand(2, 3, 16, 16)}, ["logits", "features"])
    graph.write(path, 18, {"vladapt": json.dumps({"names": ["ä"]})})
    return module, path


@pytest.mark.parametrize("rows", [1, 5])
def test_any_number_of_rows(whole, rows):
    module, path = whole
    pixels = torch.rand(rows, 3, 16, 16)
    found = Session(path, threads=1)(pixels=pixels.numpy())
    with torch.no_grad():
        for name, wanted in zip(("logits", "features"), module(pixels), strict=True):
            torch.testing.assert_close(torch.from_numpy(found[name]), wanted, atol=1e-5, rtol=1e-5)


class Centres(nn.Module):
    """Adds to each column where its middle is."""

    def forward(self, pixels):
        return pixels + torch.linspace(0.5, pixels.shape[-1] - 0.5, pixels.shape[-1])


@pytest.mark.parametrize("width", [1, 5, 8])
def test_places_between_whole_numbers_are_kept_for_any_width(tmp_path, width):
    Graph(Centres(), {"pixels": torch.zeros(2, 8)}, ["places"], {"pixels": (1,)}).write(tmp_path / "model.onnx", 18, {})
    places = Session(tmp_path / "model.onnx")(pixels=torch.zeros(3, width).numpy())["places"]
    torch.testing.assert_close(torch.from_numpy(places), Centres()(torch.zeros(3, width)))


@pytest.mark.parametrize("sides", [1, 2, 3, 6, (3, 5)], ids=str)
def test_maps_of_any_size_are_pooled(tmp_path, sides):
    pool = nn.AdaptiveAvgPool2d(sides)
    graph = Graph(pool, {"maps": torch.zeros(1, 2, 16, 16)}, ["pooled"], {"maps": (2, 3)})
    graph.write(tmp_path / "model.onnx", 18, {})
    session = Session(tmp_path / "model.onnx")
    for size in ((16, 16), (7, 19), (2, 6), (1, 1)):
        maps = torch.rand(3, 2, *size)
        pooled = torch.from_numpy(session(maps=maps.numpy())["pooled"])
        torch.testing.assert_close(pooled, pool(maps), atol=1e-6, rtol=1e-5)


def test_a_file_says_what_it_is(whole):
    model = onnx.load(str(whole[1]))
    told = {each.key: each.value for each in model.metadata_props}
    assert json.loads(told["vladapt"]) == {"names": ["ä"]}
    assert [each.version for each in model.opset_import if each.domain == ""] == [18]


def test_8_bits_are_nearly_the_same_and_16_nearer(whole, tmp_path):
    module, path = whole
    pixels, away = torch.rand(6, 3, 16, 16), {}
    pixels[:, :, 0, 0] = 20  # of such a range 8 bits leave little to the others
    examples = [{"pixels": pixels.numpy()}]
    with torch.no_grad():
        wanted = module(pixels)[0]
    for bits in (8, 16):
        words = write_in_8_bits(path, tmp_path / "int8.onnx", examples, bits)
        slower = " (smaller, not faster)" if bits == 16 else ""
        assert words == f"weights of convolutions in 8 bits, their inputs in {bits}{slower}"
        model = onnx.load(str(tmp_path / "int8.onnx"))
        assert "QuantizeLinear" in {node.op_type for node in model.graph.node}
        assert [each.key for each in model.metadata_props] == ["vladapt"]
        found = torch.from_numpy(Session(tmp_path / "int8.onnx")(pixels=pixels.numpy())["logits"])
        away[bits] = (found - wanted).abs().max() / (wanted.max() - wanted.min())
    assert 0 < away[16] < away[8] < 0.1


def test_matrices_alone_are_quantised_by_their_weights(tmp_path):
    module = nn.Linear(64, 3)
    Graph(module, {"features": torch.rand(2, 64)}, ["logits"]).write(tmp_path / "m.onnx", 18, {})
    assert write_in_8_bits(tmp_path / "m.onnx", tmp_path / "8.onnx", []) == "weights of matrix products in 8 bits"
    features = torch.rand(5, 64)
    found = torch.from_numpy(Session(tmp_path / "8.onnx")(features=features.numpy())["logits"])
    assert 0 < (found - module(features)).abs().max() < 0.1


class ByContent(nn.Module):
    def forward(self, rows):
        return rows if float(rows.sum()) > 1 else -rows


def test_what_onnx_cannot_say_is_one_line(tmp_path, capsys):
    with pytest.raises(CapabilityError, match=r"^ONNX cannot express this model.*; predict with the run$"):
        Graph(ByContent(), {"rows": torch.ones(2, 1)}, ["some"]).write(tmp_path / "m.onnx", 18, {})
    assert capsys.readouterr() == ("", "") and not list(tmp_path.iterdir())
    pooled = Graph(nn.AdaptiveMaxPool2d(3), {"maps": torch.ones(1, 1, 4, 4)}, ["some"], {"maps": (2, 3)})
    with pytest.raises(CapabilityError, match=r"export of operator adaptive_max_pool2d[^.]*\); predict with the run$"):
        pooled.write(tmp_path / "m.onnx", 18, {})


class FirstBlock(nn.Module):
    def forward(self, rows):
        return torch.cat([2 * block for block in rows.split(8)])


def test_a_graph_of_the_first_block_alone_is_none(tmp_path):
    with pytest.raises(CapabilityError, match="ONNX cannot express this model for more than 8 rows at once"):
        Graph(FirstBlock(), {"rows": torch.ones(2, 1)}, ["some"]).write(tmp_path / "m.onnx", 18, {})


def test_rows_in_blocks_are_whole_while_they_are_traced(tmp_path):
    class Whole(nn.Module):
        def forward(self, rows):
            return torch.cat([2 * block for block in in_blocks(rows, 8)])

    rows = torch.rand(20, 1)
    Graph(Whole(), {"rows": rows[:2]}, ["some"]).write(tmp_path / "m.onnx", 18, {})
    torch.testing.assert_close(torch.from_numpy(Session(tmp_path / "m.onnx")(rows=rows.numpy())["some"]), 2 * rows)
    assert [len(block) for block in in_blocks(rows, 8)] == [8, 8, 4]


@torch.no_grad()
def test_an_image_tower_that_merges_tokens_merges_in_its_graph_too(tmp_path):
    class First(nn.Module):
        """Its first block, which merges."""

        def __init__(self):
            super().__init__()
            towers = small_clip()
            self.model, self.blocks, self.prefix = towers.model.visual, towers.blocks("image")[:1], towers.image_prefix

        def forward(self, x):
            return MergedTokens(Reduction((2,)), self.prefix).through(self.blocks, x, [1])[0]

    module, x = First(), torch.randn(5, 5, small_clip().blocks("image")[0].ln_1.weight.shape[0])
    Graph(module, {"x": x[:2]}, ["tokens"]).write(tmp_path / "m.onnx", 18, {})
    made = torch.from_numpy(Session(tmp_path / "m.onnx")(x=x.numpy())["tokens"])
    torch.testing.assert_close(made, module(x), atol=1e-5, rtol=1e-5)
    assert len({tuple(token.tolist()) for token in made[0]}) == 3  # of five


@pytest.mark.parametrize("opset", [11, 17, 999])
def test_opsets_that_cannot_be_written(opset):
    with pytest.raises(ConfigError, match=rf"--opset {opset}: .*; give 18 to \d+"):
        check_opset(opset)
    assert check_opset(None) == 18 and check_opset(19) == 19


def test_an_agreement_by_hand():
    model = torch.tensor([[2.0, 0.0], [0.0, 1.0], [4.0, 3.9]])
    graph = torch.tensor([[2.0, 0.0], [0.5, 1.0], [3.9, 4.0]])
    found = Agreement.of(model, graph, torch.tensor([0, 0, 0]))
    assert (found.images, found.difference, found.share) == (3, 0.5, 0.125)
    assert found.same == pytest.approx(2 / 3) and found.accuracy == pytest.approx((2 / 3, 1 / 3))
    assert found.words == agreement_sentence(found.facts)
    assert "66.7% of the answers are the same; 66.7% are right with the model, 33.3% with the graph" in found.words
    assert found.words.startswith("on 3 images the largest difference is 1.2e-01 of the range")
    assert Agreement.of(model[:1], graph[:1], None).words.startswith("on one image the largest difference is 0.0e+00")


def test_several_labels_are_answers_of_their_own():
    model, graph = torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [float("nan"), 1.0]])
    found = Agreement.of(model, graph, labels, thresholds=torch.tensor([0.5, 0.5]))
    assert found.same == 0.75 and found.accuracy == pytest.approx((1.0, 2 / 3))
    assert "right" not in Agreement.of(model, graph, None).words
