"""Centres gather patches: the reference's numbers, and what makes groups."""

import pytest
import torch

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.modules.segmentors.segclip.group import (
    GroupsToPatches,
    SemanticGroup,
    group_scores,
    paint,
    with_background,
)


@pytest.fixture
def reference(references):
    (ref,) = references("segclip_group")
    module = SemanticGroup(*(ref.setting(name) for name in ("channels", "tokens", "heads", "cross_layer"))).eval()
    module.load_state_dict({name[2:]: value for name, value in ref.tensors.items() if name.startswith("w.")})
    return module, ref


def group(**options):
    torch.manual_seed(0)
    return SemanticGroup(16, **{"groups": 3, "heads": 2, **options})


@pytest.fixture
def patches():
    return torch.randn(2, 9, 16, generator=torch.Generator().manual_seed(1))


def test_groups_and_assignments_are_the_references(reference):
    module, ref = reference
    names = ("groups_intended", "hard_assignment_intended", "soft_assignment_intended", "query_intended")
    for ours, name in zip(module(ref["inputs"]), names):
        ref.assert_close(ours, name)


def test_an_image_does_not_know_its_batch(reference):
    module, ref = reference
    ref.assert_close(module(ref["inputs"][:1]).groups, "groups_first_only_intended")


def test_each_patch_is_in_one_group(patches):
    gathered = group()(patches)
    assert torch.equal(gathered.hard.detach().round().sum(dim=1), torch.ones(2, 9))
    torch.testing.assert_close(gathered.soft.sum(dim=1), torch.ones(2, 9))


def test_evaluation_takes_the_best_centre_and_training_draws(patches):
    calm = group().eval()
    assert torch.equal(calm(patches).hard, calm(patches).hard)
    assert torch.equal(calm(patches).hard.argmax(dim=1), calm(patches).soft.argmax(dim=1))
    drawn = group().train()
    assert any(not torch.equal(drawn(patches).hard, drawn(patches).hard) for _ in range(5))


def test_the_order_of_patches_means_nothing(patches):
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    module = group().eval()
    ours, shuffled = module(patches), module(patches[:, order])
    torch.testing.assert_close(ours.groups, shuffled.groups, atol=1e-5, rtol=1e-4)
    assert torch.equal(ours.hard[:, :, order], shuffled.hard)


def test_gradients_pass_the_hard_choice(patches):
    module = group().train()
    module(patches).groups.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())


@pytest.mark.parametrize("options", [{"groups": 5}, {"heads": 4}, {"cross_layers": 1}, {"tau": 5.0}], ids=str)
def test_every_option_changes_what_is_learned(patches, options):
    def gradient(**given):
        module = group(**given).train()
        torch.manual_seed(1)
        return torch.autograd.grad(module(patches).groups.square().sum(), module.norm.weight)[0]

    assert not torch.allclose(gradient(), gradient(**options), atol=1e-7)


def test_a_patch_comes_back_as_a_mixture_of_its_groups(patches):
    torch.manual_seed(0)
    gathered, back = group().eval()(patches), GroupsToPatches(3)
    made = back(gathered)
    shares = gathered.hard.transpose(1, 2) @ back.rec_proj_a.weight.T + back.rec_proj_a.bias
    mixed = shares @ gathered.groups
    torch.testing.assert_close(made, mixed * torch.sigmoid(1.702 * mixed))


def test_bad_options_are_named():
    for options in ({"groups": 0}, {"heads": 3}, {"cross_layers": -1}, {"tau": 0}):
        (name, value), *_ = options.items()
        with pytest.raises(ConfigError, match=f"option {name}={value} is not usable"):
            group(**options)


# From groups to pixels ----------------------------------------------------------------------------------------------


def test_a_groups_score_is_its_probability_among_all_times_that_among_the_likely():
    texts = torch.eye(3)
    groups = torch.tensor([[[3.0, 4.0, 0.0], [0.0, 0.0, 1.0]]])
    image = torch.tensor([[1.0, 1.0, 0.0]])  # the third class is not among the two likeliest
    scores = group_scores(groups, image, texts, 2.0, likely=2)
    among_all = torch.tensor([1.2, 1.6, 0.0]).softmax(dim=0)
    among_two = torch.tensor([1.2, 1.6]).softmax(dim=0)
    torch.testing.assert_close(scores[0, 0, :2], among_all[:2] * among_two)
    assert (scores[0, :, 2] == 0).all()
    assert (group_scores(groups, image, texts, 2.0, likely=3)[0, :, 2] > 0).all()


def test_a_pixel_has_the_scores_of_its_group():
    soft = torch.tensor([[[0.9, 0.2], [0.1, 0.8]]])  # two groups, a grid of 1 x 2
    scores = torch.tensor([[[0.7, 0.1], [0.2, 0.6]]])
    painted = paint(scores, soft, (1, 2), (2, 4))
    assert painted.shape == (1, 2, 2, 4)
    assert painted[0, :, 0, 0].tolist() == pytest.approx([0.7, 0.1])
    assert painted[0, :, 1, 3].tolist() == pytest.approx([0.2, 0.6])


def test_the_background_is_where_no_class_reaches_the_threshold():
    scores = torch.tensor([[[0.9, 0.3]], [[0.05, 0.2]]])
    found = with_background(scores, 0, 0.5)
    assert found[:, 0].T.argmax(dim=1).tolist() == [1, 0]
    assert with_background(scores, 1, 0.5)[1].tolist() == [[0.0, 1.0]]
    assert with_background(scores, 0, 0.2)[0].tolist() == [[0.0, 0.0]]
    assert with_background(scores, 0, 0.99)[0].tolist() == [[0.0, 1.0]]  # the best of the image is never background
