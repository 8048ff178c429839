"""Whether answers follow a column beyond the label."""

import pytest
import torch

from vladapt.core.metrics import followed_columns as module
from vladapt.core.metrics.followed_columns import (
    FEW_WAYS,
    LABEL,
    NO_CLASS,
    ONE_GROUP,
    ONE_TAUGHT,
    ONE_VALUE,
    Column,
    followed,
)

SUPPORT = torch.tensor([0] * 20 + [1] * 20)
ALIGNED = torch.tensor([0] * 19 + [1] * 20 + [0])  # with the label, of 38 in 40


@pytest.fixture(autouse=True)
def fewer_draws(monkeypatch):
    monkeypatch.setattr(module, "PERMUTATIONS", 1000)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn_set(count: int = 200, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels and values that have nothing to do with one another."""
    return torch.randint(0, 2, (2, count), generator=seeded(seed)).unbind()


def of(values, labels, answers, support=ALIGNED, groups=None, seed=0):
    return followed([Column(support, values, 2)], SUPPORT, labels, answers, 2, groups, seed=seed)[0]


def test_an_answer_that_is_the_column_follows_it_and_one_that_is_the_label_does_not():
    labels, values = drawn_set()
    cheat, honest = of(values, labels, values), of(values, labels, labels)
    assert cheat.share == 1 and cheat.expected == pytest.approx(0.5, abs=0.05) and cheat.p_value == 1 / 1001
    assert cheat.interval[0] < cheat.share - cheat.expected < cheat.interval[1] and cheat.interval[0] > 0.35
    assert honest.p_value == 1 and honest.share == pytest.approx(honest.expected) and honest.interval == [0, 0]


def test_only_the_direction_of_the_support_counts():
    labels, values = drawn_set()
    against = of(values, labels, 1 - values)
    assert against.p_value == 1 and against.share == 0
    turned = of(values, labels, 1 - values, support=1 - ALIGNED)
    assert turned.p_value == 1 / 1001 and turned.share == 1


def test_what_goes_with_the_label_alone_is_not_followed():
    """Answers and column both go with the class, and not with one another within it: both are right 80 times of 100."""
    named = 0
    for seed in range(40):
        labels = torch.randint(0, 2, (120,), generator=seeded(seed))
        wrong, other = (torch.rand(2, 120, generator=seeded(900 + seed)) < 0.2).unbind()
        named += of(labels ^ other, labels, labels ^ wrong, seed=seed).p_value < 0.05
    assert named <= 6


def test_the_share_that_is_expected_and_the_p_value_are_those_of_all_orders():
    """Six images of one class: three of each value, in twenty orders."""
    labels, values = torch.zeros(6, dtype=torch.int64), torch.tensor([0, 0, 0, 1, 1, 1])
    made = of(values, labels, values)
    assert made.share == 1 and made.expected == pytest.approx(0.5)
    assert made.p_value == pytest.approx(1 / 20, abs=0.02)
    answers = torch.tensor([0, 0, 1, 0, 1, 1])
    assert of(values, labels, answers).p_value == pytest.approx(10 / 20, abs=0.05)  # of 20, 1 and 9 follow as much


def test_whole_groups_change_places():
    """A place per patient, and answers that are the patient's: with few patients chance explains it."""
    generator, named = seeded(0), {True: 0, False: 0}
    for seed in range(40):
        place, answer = torch.randint(0, 2, (2, 12), generator=generator).repeat_interleave(10, dim=1).unbind()
        labels = torch.tensor([0, 1] * 6).repeat_interleave(10)
        groups = [f"patient {n // 10}" for n in range(120)]
        for grouped in named:
            made = of(place, labels, answer, groups=groups if grouped else None, seed=seed)
            named[grouped] += made != FEW_WAYS and made.p_value < 0.05
    assert named[True] <= 4 and named[False] >= 6


def test_a_place_whose_patients_have_more_images_is_not_followed_for_that():
    """Answers are right 80 times of 100 wherever; one place has twelve images per patient, the other two."""
    named, more = 0, []
    for seed in range(40):
        place = torch.randint(0, 2, (60,), generator=seeded(seed))
        count = torch.where(place == 0, 12, 2)
        labels = (torch.arange(60) % 4 == 0).long().repeat_interleave(count)
        groups = [f"patient {n}" for n in torch.arange(60).repeat_interleave(count).tolist()]
        wrong = torch.rand(len(labels), generator=seeded(900 + seed)) < 0.2
        made = of(place.repeat_interleave(count), labels, labels ^ wrong, groups=groups, seed=seed)
        named += made.p_value < 0.05
        more.append(made.share - made.expected)
    assert named <= 6 and sum(more) / 40 == pytest.approx(0, abs=0.01)


def test_a_patient_with_images_of_two_classes_moves_as_one():
    """Patients whose both images lie at their place: values of both go with the patient."""
    labels, place = torch.tensor([0, 1] * 30), torch.randint(0, 2, (30,), generator=seeded(3)).repeat_interleave(2)
    groups = [f"patient {n // 2}" for n in range(60)]
    cells = module._Cells.of(labels, groups)
    dealt = cells.dealt(50, seeded(0))
    assert (dealt % 2 == torch.arange(60) % 2).all() and (dealt[:, ::2] + 1 == dealt[:, 1::2]).all()
    assert of(place, labels, place, groups=groups).p_value < 0.01
    alone = torch.tensor([0] * 10 + [1, 2])
    mixed = module._Cells.of(alone, None).dealt(50, seeded(0))
    assert (mixed[:, 10:] == torch.tensor([10, 11])).all() and mixed[:, :10].unique().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("support", "values", "groups", "reason"),
    [
        (ALIGNED, [0] * 40, None, ONE_VALUE),
        (ALIGNED, [0] * 20 + [-1] * 20, None, ONE_VALUE),
        (torch.zeros(40, dtype=torch.int64), [0, 1] * 20, None, ONE_TAUGHT),
        (torch.tensor([0, 1] * 20), [0, 1] * 20, None, NO_CLASS),
        (ALIGNED, [0] * 20 + [1] * 20, None, LABEL),
        (ALIGNED, [1] * 20 + [0] * 19 + [-1], None, LABEL),
        (ALIGNED, [0, 1] * 20, ["one"] * 20 + ["other"] * 20, ONE_GROUP),
        (ALIGNED, [0] * 8 + [1] * 32, [str(n // 8) for n in range(40)], FEW_WAYS),  # 5 ways
    ],
)
def test_what_cannot_be_judged_says_why(support, values, groups, reason):
    labels = torch.tensor([0] * 20 + [1] * 20)
    assert of(torch.tensor(values), labels, labels, support, groups) == reason


def test_values_that_the_support_lacks_and_images_without_one_count_for_nothing():
    labels, values = drawn_set(100)
    more = torch.cat((values, torch.full((40,), 2), torch.full((30,), -1)))
    labels, answers = torch.cat((labels, torch.arange(70) % 2)), torch.cat((values, torch.ones(70, dtype=torch.int64)))
    (made,) = followed([Column(ALIGNED, more, 3)], SUPPORT, labels, answers, 2)
    assert made.images == 140 and made.share == pytest.approx(100 / 140) and made.p_value == 1 / 1001
    assert Column(ALIGNED, more, 3).association(SUPPORT, 2)[2].tolist() == [0, 0]


def test_columns_do_not_change_one_another():
    labels, values = drawn_set()
    noise = torch.randint(0, 2, (200,), generator=seeded(9))
    one, none, other = followed(
        [Column(ALIGNED, values, 2), Column(ALIGNED, labels, 2), Column(ALIGNED, noise, 2)], SUPPORT, labels, values, 2
    )
    assert none == LABEL and one.p_value == 1 / 1001 and other.p_value > 0.05
    assert one == of(values, labels, values)
    assert followed([], SUPPORT, labels, values, 2) == []
