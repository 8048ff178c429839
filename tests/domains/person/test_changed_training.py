"""How TBPS-CLIP changes pictures and captions in training, and its and the other recipes."""

import json
import re

import numpy as np
import pytest
import torch

import vladapt
from vladapt import ConfigError, DataError
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.pair_set import Pair
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.retrieval.fitting import RetrievalData
from vladapt.core.tasks.retrieval.scoring import DomainPairs
from vladapt.core.training.objective import build_objective, parse_losses
from vladapt.domains.person import training_views
from vladapt.domains.person.changed_captions import ChangedCaptions, read_paraphrases
from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians
from vladapt.domains.person.tasks.person_search import PeoplePairs, _augmented
from vladapt.domains.person.training_views import simclr_view, tbps_clip_view

CAPTIONS = ("a tall man in a long red coat with a bag", "he wears blue jeans and white shoes")
RECIPES = ("tbps-clip", "rde", "unipt", "plip")
DIMS = {"embed_dim": 8, "num_samples": 4, "text_width": 6, "vocab_size": 9}


def pair():
    return Pair("1", "1.png", None, None, CAPTIONS)


def draws_of(sampler, count=300):
    return [sampler.choose(pair(), epoch, 3) for epoch in range(count)]


def test_words_are_left_out_at_the_rate_that_is_asked_for():
    whole, changed = draws_of(CaptionSampler(seed=4)), draws_of(ChangedCaptions(seed=4, deleted=0.05))
    assert draws_of(ChangedCaptions(seed=4)) == whole
    assert draws_of(ChangedCaptions(seed=4, deleted=0.05)) == changed
    lost = [len(one.split()) - len(other.split()) for one, other in zip(whole, changed)]
    assert 0.03 < sum(lost) / sum(len(text.split()) for text in whole) < 0.07
    for text in changed:
        words = iter(next(each for each in CAPTIONS if text.split()[-1] in each or text.split()[0] in each).split())
        assert all(word in words for word in text.split())  # in their order
    assert all(draws_of(ChangedCaptions(seed=4, deleted=0.999), 20))  # never all of them


def test_captions_give_way_to_their_own_paraphrases():
    others = {CAPTIONS[0]: ("the man has a red coat",), CAPTIONS[1]: ("jeans are blue", "shoes are white")}
    whole = draws_of(CaptionSampler(seed=4))
    changed = draws_of(ChangedCaptions(seed=4, paraphrases=others, paraphrased=0.1))
    replaced = [(one, other) for one, other in zip(whole, changed) if one != other]
    assert 0.04 < len(replaced) / len(whole) < 0.17
    assert all(other in others[one] for one, other in replaced)
    assert draws_of(ChangedCaptions(seed=4, paraphrases=others)) == whole
    with pytest.raises(ConfigError, match="paraphrased"):
        ChangedCaptions(paraphrased=1.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1], "not a JSON object"),
        ({CAPTIONS[0]: []}, "are not texts"),
        ({CAPTIONS[0]: [""]}, "are not texts"),
        ({"of others": ["x"]}, "of any of the 2 training captions"),
    ],
)
def test_a_file_of_paraphrases_is_checked(tmp_path, content, said):
    file = tmp_path / "others.json"
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=said):
        read_paraphrases(file, CAPTIONS)
    file.write_text(json.dumps({CAPTIONS[0]: "one", CAPTIONS[1]: ["two", "three"]}))
    assert read_paraphrases(file, CAPTIONS) == {CAPTIONS[0]: ("one",), CAPTIONS[1]: ("two", "three")}


@pytest.mark.parametrize("made", [tbps_clip_view, simclr_view])
def test_a_view_is_a_function_of_picture_and_seed(made, small_clip):
    view, picture = made(small_clip), np.random.default_rng(0).integers(0, 255, (40, 20, 3)).astype(np.uint8)
    state = torch.random.get_rng_state()
    one, again, other = view(picture, 1), view(picture, 1), view(picture, 2)
    assert torch.equal(state, torch.random.get_rng_state())
    assert one.shape == (3, 16, 16) and torch.equal(one, again) and not torch.equal(one, other)
    assert not torch.equal(tbps_clip_view(small_clip)(picture, 1), simclr_view(small_clip)(picture, 1))


def test_a_light_view_changes_two_things_and_each_of_six_happens(small_clip, monkeypatch):
    kinds = ("ColorJitter", "RandomRotation", "RandomResizedCrop", "RandomGrayscale", "RandomHorizontalFlip")
    counts = dict.fromkeys((*kinds, "RandomErasing"), 0)

    def counted(name):
        def made(*args, **options):
            def change(pixels):
                counts[name] += 1
                return pixels

            return change

        return made

    for name in counts:
        monkeypatch.setattr(training_views.v2, name, counted(name))
    view = tbps_clip_view(small_clip)
    for seed in range(60):
        view(np.zeros((8, 4, 3), np.uint8), seed)
    assert sum(counts.values()) == 120 and min(counts.values()) > 8


def test_options_of_the_task_reach_a_training(tmp_path, small_clip):
    drawn = drawn_pedestrians(4, 2, val=1, test=1, size=(32, 16))
    caption = drawn.items[0].target.texts[0]
    (tmp_path / "others.json").write_text(json.dumps({caption: ["in other words"]}))
    plain = RetrievalData(
        PeoplePairs.of(DomainPairs.of(drawn)), "", "", lambda backbone, train: (backbone, train), [], []
    )
    given = {"views": "tbps-clip", "deletion": 0.2, "paraphrases": str(tmp_path / "others.json"), "paraphrased": 0.3}
    changed = _augmented(plain, given)
    captions = changed.captions(5)
    assert (captions.seed, captions.deleted, captions.paraphrased) == (5, 0.2, 0.3)
    assert captions.paraphrases == {caption: ("in other words",)}
    picture = np.random.default_rng(0).integers(0, 255, (40, 20, 3)).astype(np.uint8)
    view = changed.transform(small_clip, True)(picture, seed=3)
    torch.testing.assert_close(view, tbps_clip_view(small_clip)(picture, 3))
    torch.testing.assert_close(changed.strong_view(small_clip)(picture, 4), simclr_view(small_clip)(picture, 4))
    assert changed.transform(small_clip, False) == (small_clip, False)
    as_it_is = _augmented(plain, {**given, "views": "pedestrian", "deletion": 0.0, "paraphrases": None})
    assert as_it_is.transform is plain.transform and as_it_is.strong_view is None
    assert as_it_is.captions(5).paraphrases == {}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_can_be_built(name):
    recipe = resolve(recipe=f"person/{name}")
    options = {key: value for key, value in recipe.adapter.items() if key != "name"}
    built = vladapt.build_adapter(recipe.adapter_name, **options)
    objective = build_objective(parse_losses(built.loss.split(",")), DIMS)
    assert recipe.task == "person-search" and list(objective.losses) == [name] and "pairs" in built.can


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rde": {"tau": -1}}, "option tau=-1 of loss 'rde' is not usable"),
        ({"rde": {"taus": 1}}, "loss 'rde' has no option 'taus'"),
        ({"clip": {}}, "'clip' is not one of the losses"),
    ],
)
def test_what_is_wrong_with_a_loss_is_said_when_the_adapter_is_made(options, said):
    with pytest.raises(ConfigError, match=re.escape(said)):
        vladapt.build_adapter("full", loss="rde", loss_options=options)
    with pytest.raises(ConfigError, match="unknown loss 'rdee'"):
        vladapt.build_adapter("full", loss="rdee")


def test_published_settings_are_those_of_the_recipes():
    tbps, rde = (resolve(recipe=f"person/{name}") for name in ("tbps-clip", "rde"))
    assert (tbps.task_options["views"], tbps.task_options["deletion"]) == ("tbps-clip", 0.05)
    assert (tbps.adapter["epochs"], tbps.adapter["lr"], tbps.adapter["batch_size"]) == (5, 1e-4, 320)
    irra = resolve(recipe="person/irra")
    same = {key: value for key, value in irra.adapter["training"].items() if key != "head_rate"}
    assert {key: value for key, value in rde.adapter["training"].items() if key != "head_rate"} == same
    assert rde.adapter["training"]["head_rate"] * rde.adapter["lr"] == pytest.approx(1e-3)
