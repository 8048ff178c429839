"""`eval --holistic`: test images attacked by gradients, of a linear tower whose reach is known in closed form."""

import json
from types import SimpleNamespace

import pytest
import torch

from vladapt.core.contracts.features import FeatureSet, TextClassifier
from vladapt.core.contracts.items import Item
from vladapt.core.errors import ConfigError
from vladapt.core.judgements import attacks as module
from vladapt.core.judgements.attacks import Attacks, AttackScores
from vladapt.core.runtime.progress import Reporter

COUNT, SIDE, WIDTH = 40, 4, 6
PIXELS = 3 * SIDE * SIDE


class Linear:
    """A tower that is a matrix, as much of it as an attack asks for."""

    image_mean, image_std, device = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), torch.device("cpu")
    of_parts = in_rows = False

    def __init__(self, seed):
        self.weight = torch.randn(PIXELS, WIDTH, generator=torch.Generator().manual_seed(seed))

    def encode_image(self, pixels, normalize=True):
        features = pixels.flatten(1) @ self.weight
        return torch.nn.functional.normalize(features, dim=1) if normalize else features


class Head:
    """Two classes, by the sign of a direction."""

    name, at_predict = "head", frozenset({"features"})

    def __init__(self, seed):
        self.direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))

    def logits(self, batch):
        score = batch.features @ self.direction
        return torch.stack([score, -score], dim=1)


def judged(groups=None, head=None, texts=True):
    """A fit whose test images are in the middle of the range, so that no attack meets its end."""
    tower, head, generator = Linear(0), head or Head(1), torch.Generator().manual_seed(2)
    mean, std = (torch.tensor(each).view(-1, 1, 1) for each in (Linear.image_mean, Linear.image_std))
    images = 0.5 + 0.1 * torch.randn(COUNT, 3, SIDE, SIDE, generator=generator).clamp(-2, 2)
    ids = tuple(f"image {n}" for n in range(COUNT))
    items = [Item(name, name, {"row": n}) for n, name in enumerate(ids)]
    features = tower.encode_image((images - mean) / std, normalize=False)
    classifier = TextClassifier(torch.stack([Head(3).direction, -Head(3).direction]), class_names=("a", "b"))
    if not texts:
        classifier = TextClassifier.without_texts(("a", "b"), WIDTH)
    transform = SimpleNamespace(transforms=lambda backbone, train, task: lambda image: (image - mean) / std)
    data = SimpleNamespace(items=items, load=lambda item: images[item.decode["row"]])
    prepared = SimpleNamespace(
        data=data, domain=transform, task="classification", classifier_of=lambda names: classifier
    )
    fit = SimpleNamespace(before=tower, after=tower, adapter=head, prepared=prepared, columns=None, seed=5)
    fit.several_labels = fit.sees_parts = False
    fit.class_names, fit.reporter, fit.scores = ("a", "b"), Reporter(quiet=True), SimpleNamespace(groups=groups)
    fit.test, fit.labels = FeatureSet(features, ids=ids), (features @ Head(4).direction < 0).long()
    return fit, images


def expected(fit, images, direction, radius):
    """Which images a linear rule has right however each pixel is moved by so much."""
    std = torch.tensor(Linear.image_std).repeat_interleave(SIDE * SIDE)
    slope = fit.before.weight @ direction / std  # of the score by the images
    score = fit.test.features @ direction
    margin = torch.where(fit.labels == 0, score, -score)
    return float((margin > radius / 255 * slope.abs().sum()).double().mean())


@pytest.mark.parametrize("attack", [None, "apgd"])
def test_accuracy_is_that_of_the_images_that_no_change_of_that_size_can_turn(attack):
    fit, images = judged()
    made = Attacks(holistic=True, holistic_images="all", attack=attack).compute(fit)
    assert made.images == COUNT and made.attack == (attack or "pgd") and made.without_gradient == 0
    run, texts = Head(1).direction, Head(3).direction
    assert made.clean == pytest.approx(expected(fit, images, run, 0))
    assert made.clean_zero_shot == pytest.approx(expected(fit, images, texts, 0))
    for radius in (2, 4):
        of = made.radii[str(radius)]
        assert of.accuracy == pytest.approx(expected(fit, images, run, radius)) and 0 < of.accuracy < made.clean
        assert of.change == pytest.approx(of.accuracy - made.clean)
        assert of.zero_shot == pytest.approx(expected(fit, images, texts, radius))  # attacked by itself
        assert of.gain == pytest.approx(of.accuracy - of.zero_shot)
        assert of.interval[0] < of.accuracy < of.interval[1] and of.change_interval[0] < of.change
    assert sum(times == 2 for _, times in made.worst) > 0 and made.worst[0][1] == 2
    assert AttackScores.from_json(json.loads(json.dumps(made.to_json()))).to_json() == made.to_json()
    scores = made.axis_scores()
    assert scores["attacked_4"].score == made.radii["4"].accuracy and scores["attacked_2"].zero_shot is not None
    assert "2/255" in made.note() and len(made.section().rows) == 3 and made.table().row_count == 3


def test_so_many_images_are_attacked_and_the_same_ones_again(monkeypatch):
    monkeypatch.setattr(Attacks, "images", 9)
    fit = judged()[0]
    first = Attacks(holistic=True).compute(fit)
    assert first.images == 9 and first.to_json() == Attacks(holistic=True).compute(fit).to_json()
    monkeypatch.setattr(module, "AT_ONCE", 4)
    assert Attacks(holistic=True).compute(fit).to_json() == first.to_json()


def test_patients_count_and_not_their_images():
    alone, together = (
        Attacks(holistic=True).compute(judged(groups)[0]).radii["2"]
        for groups in (None, [f"patient {n // 8}" for n in range(COUNT)])
    )
    assert alone.accuracy == together.accuracy
    assert together.interval[1] - together.interval[0] > alone.interval[1] - alone.interval[0]


def test_without_texts_the_run_stands_alone():
    made = Attacks(holistic=True).compute(judged(texts=False)[0])
    assert made.clean_zero_shot is None and made.radii["2"].zero_shot is None and made.radii["2"].gain is None
    assert "–" in {cell.text for row in made.rows() for cell in row[1:2]}


class Counting(Head):
    """Whose answers do not depend on pixels smoothly."""

    def logits(self, batch):
        return super().logits(batch).detach().sign()


class Looking(Head):
    at_predict = frozenset({"features", "images"})


def test_what_cannot_be_attacked_is_said():
    def lacking(**changes):
        fit = judged(head=changes.pop("head", None))[0]
        vars(fit).update(changes)
        return Attacks(holistic=True).compute(fit)

    assert lacking(before=None).lacking == "attacks: not made, since a features file holds no images"
    assert "several labels" in lacking(several_labels=True).lacking
    assert "the answers of head have no gradient by the pixels" in lacking(head=Counting(1)).lacking
    assert "head asks for images besides" in lacking(head=Looking(1)).lacking
    none = lacking(sees_parts=True)
    assert none.axis_scores() == dict.fromkeys(("attacked_2", "attacked_4"), none.lacking) and none.table() is None
    assert none.section().note == none.note() == none.lacking
    with pytest.raises(ConfigError, match="--attack: only with --holistic"):
        Attacks(attack="apgd")


def test_an_answer_that_is_constant_near_an_image_is_counted():
    class Flat(Head):
        def logits(self, batch):
            return super().logits(batch) * 0

    made = Attacks(holistic=True).compute(judged(head=Flat(1))[0])
    assert made.without_gradient == COUNT and f"{COUNT} images have no gradient" in made.section().note
