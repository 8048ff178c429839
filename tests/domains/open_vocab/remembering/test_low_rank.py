"""Low-rank matrices on a detector's weights: nothing changes at first, they alone train, and they merge."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_state_dict

from vladapt import ConfigError
from vladapt.domains.open_vocab.modules.classifiers.cosine import CosineTextClassifier
from vladapt.domains.open_vocab.remembering.low_rank import add_low_rank, merge_low_rank


class Padded(nn.Conv2d):
    """One with a `forward` of its own."""

    def forward(self, x):
        return super().forward(nn.functional.pad(x, (1, 1, 1, 1)))


class Net(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.frozen = nn.Conv2d(4, 4, 1).requires_grad_(False)
        self.grouped = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.padded = Padded(4, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = CosineTextClassifier(6, spec, "cat, dog", background="learned")

    def forward(self, x):
        x = self.norm(self.padded(self.grouped(self.frozen(self.stem(x)))))
        x = self.fc(x.mean(dim=(2, 3)))[:, None]
        return self.head(self.attention(x, x, x)[0])


@pytest.fixture
def net(small_clip_spec):
    torch.manual_seed(0)
    return Net(small_clip_spec).eval()


@pytest.fixture
def pixels():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def trained(net, pixels):
    """A few steps of what trains."""
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        net(pixels).logsumexp(dim=-1).sum().backward()
        optimizer.step()


def test_nothing_changes_at_first_and_matrices_and_the_projection_train(net, pixels):
    before = net(pixels)
    add_low_rank(net, rank=2)
    torch.testing.assert_close(net(pixels), before)
    training = {name for name, parameter in net.named_parameters() if parameter.requires_grad}
    assert {name.split(".")[0] for name in training} == {"stem", "grouped", "padded", "fc", "attention", "head"}
    assert all(name.endswith((".a", ".b")) or name.startswith("head") for name in training)
    assert "head.projection.weight" in training and net.fc.parametrizations.weight[0].a.shape == (2, 4)
    assert isinstance(net.stem, nn.Conv2d) and net.stem.kernel_size == (3, 3)


def test_merged_it_does_the_same_under_the_names_of_before(net, pixels):
    names = set(net.state_dict())
    first = {name: value.clone() for name, value in net.state_dict().items()}
    add_low_rank(net, rank=2)
    trained(net, pixels)
    with_matrices = net(pixels)
    merge_low_rank(net)
    torch.testing.assert_close(net(pixels), with_matrices)
    after = net.state_dict()
    assert set(after) == names
    changed = {name for name in names if not torch.equal(after[name], first[name])}
    layers = {"stem.weight", "grouped.weight", "padded.weight", "fc.weight", "attention.out_proj.weight"}
    assert changed == layers | {"head.projection.weight", "head.projection.bias", "head.background_embedding"}
    assert torch.linalg.matrix_rank(after["fc.weight"] - first["fc.weight"], tol=1e-5) <= 2


def test_weights_of_before_are_loaded_under_their_own_names(net, pixels, small_clip_spec):
    torch.manual_seed(5)
    other = Net(small_clip_spec).eval()
    add_low_rank(net, rank=2)
    nn.init.ones_(net.fc.parametrizations.weight[0].b)  # as an initialisation may that knows nothing of them
    load_state_dict(net, other.state_dict(), strict=False)
    torch.testing.assert_close(net(pixels), other(pixels))


def test_what_was_stopped_goes_on_with_its_matrices(net, pixels, small_clip_spec):
    add_low_rank(net, rank=2)
    trained(net, pixels)
    again = Net(small_clip_spec).eval()
    add_low_rank(again, rank=2)
    load_state_dict(again, net.state_dict(), strict=True)
    torch.testing.assert_close(again(pixels), net(pixels))


def test_layers_that_are_no_larger_than_the_rank_are_left(net):
    add_low_rank(net, rank=3)
    assert net.stem.parametrizations.weight[0].a.shape == (3, 27) and net.fc.parametrizations.weight[0].b.shape == (
        6,
        3,
    )
    with pytest.raises(ConfigError, match="--lora-rank 4: Conv2d has no layer with more inputs and outputs; give"):
        add_low_rank(nn.Conv2d(3, 4, 3), rank=4)


@pytest.mark.filterwarnings("ignore:init_weights of Head")
def test_an_initialisation_of_mmengines_passes_by_the_matrices():
    """That of Faster R-CNN's head takes any part with a `weight` for a layer."""

    class Head(BaseModule):
        def __init__(self):
            super().__init__({"type": "Xavier", "override": {"name": "shared_fcs"}})
            self.shared_fcs = nn.ModuleList([nn.Linear(4, 6)])

    head = Head()
    add_low_rank(head, rank=2)
    weight = head.shared_fcs[0].weight.clone()
    head.init_weights()  # as a Runner does before it loads weights
    assert torch.equal(head.shared_fcs[0].weight, weight)
