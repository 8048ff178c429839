"""MedKLIP's and MeDSLIP's terms beside the released code, and what each of them adds."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.query_losses import medklip, medslip

from vladapt import ConfigError, DataError, UnknownNameError, build_loss
from vladapt.core.registry import loss_class
from vladapt.domains.medical.losses._query_decoder import Draws, described, drawn_places

FINDINGS = {"Edema": "water in the lung", "Mass": "a large shadow", "Hernia": "bowel in the chest"}
POSITIONS = {"left": "left lung", "right": "right lung", "base": "at the bottom", "apex": "at the top"}
SMALL = {"width": 8, "heads": 2, "layers": 2, "hidden": 12, "findings": FINDINGS, "positions": POSITIONS}
NAMES = ("medklip", "medslip")


def built(name, **options):
    torch.manual_seed(0)
    loss = build_loss(name, {"embed_dim": 6}, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in loss.parameters():  # away from the start, where all answers are nearly alike
            parameter += 0.3 * torch.randn(parameter.shape)
    return loss


def batch(seed=0, count=5):
    generator = torch.Generator().manual_seed(seed)
    relations = torch.randint(0, 3, (count, 3, 4), generator=generator).float()
    relations[relations == 2] = torch.nan
    findings = torch.randint(-1, 2, (count, 3), generator=generator).float()
    findings[relations.eq(1).any(dim=2)] = 1.0
    findings[0, 0], relations[0, 0] = 1.0, torch.tensor([1.0, 0.0, 0.0, 1.0])
    tokens = torch.randn(count, 7, 6, generator=generator)
    return {
        "image_tokens": tokens,
        "findings": findings,
        "relations": relations.flatten(1),
        "index": torch.arange(count),
    }


@pytest.mark.parametrize("comparison", [medklip, medslip], ids=NAMES)
def test_values_gradients_and_maps_are_the_released_ones(comparison, agrees):
    agrees(comparison)


def cross_entropy(logits, place=0):
    return logits.logsumexp(dim=-1) - logits[place]


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 100))
def test_medklip_is_its_equation(seed):
    """Entry by entry; with 7 negatives all positions that a finding does not have are there."""
    loss, out = built("medklip"), batch(seed)
    parts = loss(out)
    answers = loss.asked(loss.image_map(out["image_tokens"]))
    relations, existence, position = out["relations"].view(5, 3, 4), [], []
    for b in range(5):
        for e in range(3):
            if out["findings"][b, e] in (1, -1):
                existence.append(cross_entropy(loss.stream.classifier(answers[b, e]), int(out["findings"][b, e] == 1)))
            true = [a for a in range(4) if relations[b, e, a] == 1]
            if out["findings"][b, e] == 1 and true:
                scores = loss.book_of_positions @ loss.stream.contrast(answers[b, e])
                others = [scores[a] for a in range(4) if a not in true]
                position.append([cross_entropy(torch.stack([scores[a], *others])) for a in true])
    torch.testing.assert_close(parts["existence"], torch.stack(existence).mean())
    least, most = (sum(pick(each) for each in position) / len(position) for pick in (min, max))
    assert least - 1e-5 <= parts["position"] <= most + 1e-5  # which of several true positions is drawn
    torch.testing.assert_close(parts["loss"], parts["existence"] + parts["position"])


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 100))
def test_medslip_is_its_equation(seed):
    loss, out = built("medslip"), batch(seed)
    parts = loss(out)
    relations = out["relations"].view(5, 3, 4)
    seen, where = loss.divided(out["image_tokens"])
    h = loss.of_findings(seen, loss.query_map(loss.book_of_findings))
    g = loss.of_positions(where, loss.query_map(loss.book_of_positions))
    known, wanted = ~relations.isnan(), (relations == 1).float()
    product = F.binary_cross_entropy_with_logits((h @ g.mT)[known], wanted[known])
    torch.testing.assert_close(parts["product"], product)
    prototypes = []
    for b in range(5):
        for a in range(4):
            true = relations[b, :, a] == 1
            if true.any():
                text = loss.of_positions.contrast(g[b, a])
                prototype = loss.book_of_findings[true].mean(dim=0) @ text
                others = loss.book_of_findings[~true] @ text
                prototypes.append(cross_entropy(torch.cat([prototype[None], others])))
    torch.testing.assert_close(parts["position_prototype"], torch.stack(prototypes).mean())
    total = sum(value for part, value in parts.items() if part != "loss")
    torch.testing.assert_close(parts["loss"], total)


def test_medslip_divides_patches_between_its_streams():
    """What the mask takes from one stream it gives to the other."""
    loss, tokens = built("medslip"), torch.randn(2, 7, 6)
    torch.nn.init.zeros_(loss.mask.weight)
    torch.nn.init.ones_(loss.mask.bias)
    seen, where = loss.divided(tokens)
    torch.testing.assert_close(seen, loss.finding_map(tokens))
    torch.testing.assert_close(where, loss.position_map(torch.zeros_like(tokens)))


@pytest.mark.parametrize("name", NAMES)
def test_unknown_findings_and_relations_are_not_learned(name):
    loss, out = built(name), batch(1)
    plain = loss(out)["loss"]
    otherwise = out["relations"].nan_to_num(nan=2.0)
    uncertain = torch.where(out["findings"] == 0, torch.nan, out["findings"])
    torch.testing.assert_close(loss({**out, "relations": otherwise, "findings": uncertain})["loss"], plain)
    nothing = {"findings": torch.full_like(out["findings"], torch.nan), "relations": out["relations"] * torch.nan}
    assert loss({**out, **nothing})["loss"] == 0
    absent = torch.where(out["findings"].isnan() | (out["findings"] == 0), -1.0, out["findings"])
    assert absent.ne(out["findings"]).any() and loss({**out, "findings": absent})["existence"] != loss(out)["existence"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "option",
    [
        {"width": 4}, {"heads": 4}, {"layers": 1}, {"hidden": 3}, {"exclude": ["Edema"]}, {"negatives": 1},
        {"contrast_weight": 0.5}, {"positions": {**POSITIONS, "base": "x"}},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_loss(name, option):
    out = batch(2)
    if "positions" in option:
        backbone = _Reading()
        losses = [built(name), built(name, **option)]
        for loss in losses:
            loss.prepare(backbone)
    else:
        losses = [built(name), built(name, **option)]
    one, other = (loss(out)["loss"].item() for loss in losses)
    assert abs(one - other) > 1e-4


def test_weights_of_0_leave_terms_out_with_what_they_need():
    out = batch(2)
    loss = built("medklip", contrast_weight=0)
    assert loss.needs == {"image_tokens", "findings"} and loss.stream.contrast is None
    assert set(loss({name: out[name] for name in loss.needs})) == {"loss", "existence"}
    assert set(built("medslip", contrast_weight=0, product_weight=0)(out)) == {
        "loss",
        "existence",
        "position_existence",
    }
    one, other = (built("medslip", product_weight=weight)(out)["loss"].item() for weight in (1, 2))
    assert abs(one - other) > 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_dropout_counts_in_training_alone(name):
    out, loss = batch(3), built(name, dropout=0.5)
    torch.manual_seed(0)
    assert loss.train()(out)["loss"] != loss(out)["loss"]
    assert loss.eval()(out)["loss"] == loss(out)["loss"]


def test_negatives_depend_on_seed_step_and_sample_alone():
    torch.manual_seed(0)
    draws = Draws()
    rows = torch.tensor([4, 9, 2])
    keys = draws.keys(rows, (3, 5))
    assert torch.equal(draws.keys(rows.flip(0), (3, 5)).flip(0), keys)
    assert len(keys.unique()) == keys.numel()
    draws.move()
    assert not torch.equal(draws.keys(rows, (3, 5)), keys)
    assert not torch.equal(Draws().keys(rows, (3, 5)), keys)


def test_each_allowed_place_is_drawn_as_often():
    torch.manual_seed(1)
    keys = Draws().keys(torch.arange(4000), (1, 6))
    allowed = torch.tensor([True, True, False, True, True, True]).expand_as(keys)
    index, there = drawn_places(keys, allowed, 2)
    assert there.all() and (index[..., 0] != index[..., 1]).all() and not (index == 2).any()
    shares = index.flatten().bincount(minlength=6) / index.numel()
    assert (shares[[0, 1, 3, 4, 5]] - 0.2).abs().max() < 0.02
    few, there = drawn_places(keys, torch.arange(6).lt(3).expand_as(keys), 5)
    assert few.shape[2] == 5 and (there.sum(dim=2) == 3).all()


class _Reading:
    """A text tower whose features say how long a text is."""

    def encode_text(self, texts, normalize=True):
        assert not normalize
        return torch.tensor([[float(len(text) == length) for length in (1, 8, 9, 10, 13, 14)] for text in texts])


@pytest.mark.parametrize("name", NAMES)
def test_texts_are_read_once_and_kept(name):
    loss = built(name)
    loss.prepare(_Reading())
    wanted = _Reading().encode_text(POSITIONS.values(), normalize=False)
    assert torch.equal(loss.book_of_positions, wanted) and loss.frozen_towers == {"text"}
    again = build_loss(name, {"embed_dim": 6}, **SMALL)
    again.load_state_dict(loss.state_dict())
    torch.testing.assert_close(again.eval()(batch())["loss"], loss(batch())["loss"])


@pytest.mark.parametrize("name", NAMES)
def test_it_answers_texts_and_says_where_it_looks(name):
    loss, tokens, texts = built(name), torch.randn(2, 7, 6), torch.randn(5, 6)
    stream, patches = loss.seen(tokens)
    assert loss.logits_of(tokens, texts).shape == (2, 5, 2)
    maps = loss.maps_of(tokens, texts)
    assert maps.shape == (2, 5, 7)
    torch.testing.assert_close(maps.sum(dim=2), torch.ones(2, 5))
    of_layers = stream.maps(patches, loss.query_map(texts))
    torch.testing.assert_close(maps, of_layers.mean(dim=0))
    assert of_layers.shape == (2, 2, 5, 7) and not torch.allclose(of_layers[0], of_layers[1])


def test_descriptions_are_those_that_are_given_else_ours_else_the_name(tmp_path):
    file = tmp_path / "words.json"
    file.write_text(json.dumps({"EDEMA": "as the user says"}))
    made = loss_class("medklip").named(
        {"findings": str(file)}, {"findings": ("Edema", "hernia", "Odd"), "positions": ()}
    )
    assert made == {"findings": {"Edema": "as the user says", "hernia": described("findings")["Hernia"], "Odd": "Odd"}}
    assert build_loss("medklip", {"embed_dim": 4}, **made).findings == made["findings"]
    assert build_loss("medklip", {"embed_dim": 4}, findings=str(file)).findings == {"EDEMA": "as the user says"}
    file.write_text("[1]")
    with pytest.raises(ConfigError, match="not an object of texts"):
        build_loss("medklip", {"embed_dim": 4}, findings=str(file))


def test_what_cannot_be_is_told():
    out = batch()
    with pytest.raises(ConfigError, match="does not divide into heads=3"):
        built("medklip", heads=3)
    with pytest.raises(ConfigError, match="option findings names none"):
        built("medslip", findings={})
    with pytest.raises(UnknownNameError, match=r"exclude=Edma .*Edema"):
        built("medklip", exclude=["Edma"])
    with pytest.raises(DataError, match="2 findings per image, and 3 descriptions"):
        built("medklip")({**out, "findings": out["findings"][:, :2]})
    with pytest.raises(DataError, match="10 relations per image, and 3 findings at 4 positions"):
        built("medslip")({**out, "relations": out["relations"][:, :10]})
