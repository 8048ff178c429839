"""Objectives on clips and texts: the public code's numbers, and that each term counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import video_losses

from vladapt import build_loss
from vladapt.core.errors import CapabilityError, DataError
from vladapt.core.losses._info_nce import info_nce
from vladapt.domains.video.ego_mcq import ego_mcq
from vladapt.domains.video.losses._max_margin import max_margin
from vladapt.domains.video.losses.egonce import share_of

ROWS, WIDTH = 6, 8


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def pairs():
    return {"image_features": unit(ROWS, WIDTH), "text_features": unit(ROWS, WIDTH, seed=1)}


@pytest.mark.parametrize("comparison", video_losses.GROUPS, ids=lambda each: each.method)
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


@settings(max_examples=15)
@given(st.integers(2, 6), st.floats(0.01, 1.0), st.integers(0, 1000))
def test_max_margin_is_the_sum_written_out(rows, margin, seed):
    sims = torch.rand(rows, rows, generator=torch.Generator().manual_seed(seed))
    others = [(i, j) for i in range(rows) for j in range(rows) if i != j]
    by_hand = sum(max(0.0, margin - float(sims[i, i] - sims[i, j])) for i, j in others)
    by_hand += sum(max(0.0, margin - float(sims[i, i] - sims[j, i])) for i, j in others)
    assert float(max_margin(sims, margin)) == pytest.approx(by_hand / (2 * len(others)), abs=1e-6)
    kept = (by_hand + 2 * rows * margin) / (2 * rows * rows)
    assert float(max_margin(sims, margin, diagonal=True)) == pytest.approx(kept, abs=1e-6)


def test_a_teacher_teaches_what_is_no_pair_too(pairs):
    """The matrix counts off its diagonal, and no gradient reaches the teacher."""
    teacher = {"teacher.image": unit(ROWS, 5, seed=2).requires_grad_(), "teacher.text": unit(ROWS, 5, seed=3)}
    taught = build_loss("teach-text")({**pairs, **teacher})
    turned = {**teacher, "teacher.text": teacher["teacher.text"].flip(0)}
    assert not torch.isclose(taught["distill"], build_loss("teach-text")({**pairs, **turned})["distill"])
    alone = build_loss("teach-text", distill=0.0)({**pairs, **teacher})
    torch.testing.assert_close(alone["loss"], taught["rank"])
    assert not taught["loss"].requires_grad


def test_the_teachers_texts_stand_beside_its_clips_as_the_students_do(pairs):
    teacher = {"teacher.image": unit(ROWS, 5, seed=2), "teacher.text": unit(ROWS, 5, seed=3)}
    student = pairs["text_features"] @ pairs["image_features"].T
    wanted = F.smooth_l1_loss(student, teacher["teacher.text"] @ teacher["teacher.image"].T)
    torch.testing.assert_close(build_loss("teach-text")({**pairs, **teacher})["distill"], wanted)


def actions(verbs, nouns):
    return {"verbs": torch.tensor(verbs).float(), "nouns": torch.tensor(nouns).float()}


def test_who_shares_verb_and_noun_is_a_positive(pairs):
    given = actions([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1], [0, 1]], [[1, 0], [1, 0], [1, 0], [1, 1], [0, 1], [0, 1]])
    shared = build_loss("egonce").shared(**given)
    by_hand = {(i, i) for i in range(6)} | {(0, 1), (1, 0), (4, 5), (5, 4)}
    assert {tuple(pair) for pair in shared.nonzero().tolist()} == by_hand
    nouns = build_loss("egonce", positives="noun").shared(**given)
    verbs = build_loss("egonce", positives="verb").shared(**given)
    assert nouns[0, 2] and not verbs[0, 2] and verbs[2, 5] and not nouns[2, 5] and not verbs[3].sum() > 1
    plain = build_loss("egonce")({**pairs, **actions([[0]] * ROWS, [[0]] * ROWS)})["loss"]
    torch.testing.assert_close(plain, 2 * info_nce(pairs["text_features"], pairs["image_features"], 1 / 0.05))
    assert build_loss("egonce")({**pairs, **given})["loss"] < plain


def test_the_share_of_positives_is_a_sum_of_the_softmax():
    scores, positives = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.eye(3, 4).bool()
    positives[0, 3] = True
    wanted = -(scores.softmax(dim=1) * positives).sum(dim=1).log().mean()
    torch.testing.assert_close(share_of(scores, positives), wanted)


def test_scene_negatives_are_rows_and_columns_of_their_own(pairs):
    given = {**pairs, **actions([[1, 0]] * ROWS, [[1, 0]] * ROWS)}
    loss = build_loss("egonce", scene_negatives=True)
    with pytest.raises(CapabilityError, match=r"needs 'image_negative'.*'verbs_negative'"):
        loss(given)
    scenes = {"image_negative": unit(ROWS, WIDTH, seed=4), "text_negative": unit(ROWS, WIDTH, seed=5)}
    same = {"verbs_negative": given["verbs"], "nouns_negative": given["nouns"]}
    other = {"verbs_negative": given["verbs"].flip(1), "nouns_negative": given["nouns"]}
    values = [float(loss({**given, **scenes, **shown})["loss"]) for shown in (same, other)]
    assert values[0] == pytest.approx(0, abs=1e-4) and values[1] > 0.1  # all the same action; another action is wrong


def test_each_term_of_moment_alignment_counts():
    names = ("image_features", "text_features", "image_view2", "moment_features", "moment_text")
    out = {name: unit(ROWS, WIDTH, seed=seed) for seed, name in enumerate(names)}
    out["logit_scale"] = torch.tensor(10.0)
    parts = build_loss("moment-alignment", resolution=2.0, moment=0.5)(out)
    torch.testing.assert_close(parts["loss"], parts["clip"] + 2 * parts["resolution"] + 0.5 * parts["moment"])
    torch.testing.assert_close(parts["resolution"], info_nce(out["image_features"], out["image_view2"], 10.0))
    torch.testing.assert_close(parts["moment"], info_nce(out["moment_features"], out["moment_text"], 10.0))
    moved = build_loss("moment-alignment", moment=0.0)({**out, "moment_text": out["text_features"]})
    torch.testing.assert_close(moved["loss"], parts["clip"] + parts["resolution"])


def test_ego_mcq_is_accuracy_over_five_options():
    scores = torch.tensor([[5.0, 1, 1, 1, 1], [1, 2, 3, 4, 5], [2, 2, 0, 0, 0], [0, 0, 0, 0, 1]])
    answers, kinds = torch.tensor([0, 0, 1, 4]), ["inter", "inter", "intra", "intra"]
    assert ego_mcq(scores, answers, kinds) == {"inter": 0.5, "intra": 0.75}  # a tie for the first place is a half
    assert ego_mcq(scores[:1], answers[:1], ["inter"]) == {"inter": 1.0}


@pytest.mark.parametrize(
    "change, words",
    [
        ({"scores": torch.zeros(2)}, r"give \(Q, O\), Q and Q"),
        ({"answers": torch.tensor([0, 5])}, "answers reach from 0 to 5; give 0 to 4"),
        ({"scores": torch.full((2, 5), torch.nan)}, "NaN or infinity"),
        ({"kinds": ["inter", "outer"]}, "kind 'outer' of a question; there are inter and intra"),
    ],
    ids=["shape", "answer", "NaN", "kind"],
)
def test_unusable_questions_are_refused(change, words):
    given = {"scores": torch.zeros(2, 5), "answers": torch.tensor([0, 4]), "kinds": ["inter", "intra"]}
    with pytest.raises(DataError, match=words):
        ego_mcq(**{**given, **change})
