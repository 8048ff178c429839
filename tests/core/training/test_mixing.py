"""Several sources in one training: their shares, their passes, and the same draws however the work is divided."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import mixing as checks
from PIL import Image
from tar_shards import png, shard
from training_process import streamed

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.contracts.sources import NamedSource, SourceOptions
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.data.pairs.reading import read_pairs
from vladapt.core.data.pairs.text_pairs import read_text_pairs
from vladapt.core.runtime.gather import rank_batch
from vladapt.core.training import batches as batches_module
from vladapt.core.training import mixing
from vladapt.core.training.loading import BatchLoader, check_mixture
from vladapt.core.training.mixing import (
    MixedBatches,
    Mixture,
    MixtureCounts,
    MixtureStage,
    mixture_of,
    names_of,
    source_shares,
)
from vladapt.core.training.samples import Samples
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.source_losses import SourceLosses
from vladapt.core.training.sources import MixedSource, PairSource, TextSource, num_labels_of
from vladapt.core.training.stored_teachers import check_stored
from vladapt.core.training.train import TrainingTask, train

SIZES = (40, 23, 64)
weights_of_sources = st.lists(st.floats(0.0625, 9, width=32), min_size=2, max_size=4)


def mixture(*shares, names="abcd", **options) -> Mixture:
    total = sum(shares)
    stages = (MixtureStage(None, tuple(share / total for share in shares)),)
    return Mixture(tuple(names[: len(shares)]), stages, **options)


def as_ranks(monkeypatch, ranks, me):
    for module in (batches_module, mixing):
        monkeypatch.setattr(module, "world_size", lambda: ranks)
        monkeypatch.setattr(module, "rank", lambda: me)


def drawn(batches: MixedBatches, epochs: int) -> list[list[tuple[int, int]]]:
    """The (pass, row) of each step."""
    steps = []
    for epoch in range(epochs):
        batches.epoch, batches.start = epoch, 0
        steps += list(batches)
    return steps


def source_of(row: int, sizes=SIZES) -> int:
    return int(np.searchsorted(np.cumsum(sizes), row, side="right"))


# shares --------------------------------------------------------------------------------------------------------------


def test_factors_are_relative_to_sampling_in_proportion_to_size(agrees):
    agrees(checks.mixing_sources)


def test_words_are_switched_as_by_the_reference_code(agrees):
    agrees(checks.code_switching)


def test_a_share_is_one_whatever_the_sizes():
    assert source_shares([1, 3], [1000, 10], factors=False) == (0.25, 0.75)


@settings(max_examples=40)
@given(weights_of_sources, st.integers(2, 70), st.integers(0, 99), st.booleans())
def test_each_batch_is_full_and_as_near_to_its_shares_as_whole_samples_are(weights, batch_size, seed, one):
    of = mixture(*weights, one=one)
    counts = MixtureCounts(of, batch_size, seed)
    each = counts.of(np.arange(500))
    wanted = batch_size * np.array(of.stages[0].shares)
    assert (each.sum(axis=1) == batch_size).all() and (each >= 0).all() and (each <= counts.most).all()
    if one:
        assert (np.sort(each, axis=1)[:, :-1] == 0).all()
    else:
        assert (np.abs(each - wanted) < 1 + 1e-6).all()
    drift = np.abs(counts.before(500)[1:] - wanted * np.arange(1, 501)[:, None])
    assert drift.max() < 6 * (batch_size if one else 1)


def test_stages_have_shares_of_their_own():
    of = Mixture(
        ("a", "b"), (MixtureStage(10, (1.0, 0.0)), MixtureStage(30, (0.5, 0.5)), MixtureStage(None, (0.0, 1.0)))
    )
    before = MixtureCounts(of, 8, seed=0).before(50)
    assert before[10].tolist() == [80, 0]
    assert abs(before[30, 0] - 160) <= 3 and (before[50] - before[30]).tolist() == [0, 160]


# passes --------------------------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(
    st.lists(st.integers(17, 70), min_size=2, max_size=3),
    st.integers(0, 50),
    st.integers(2, 17),
    st.sampled_from([0, 1]),
)
def test_no_sample_comes_again_before_all_were_seen_nor_twice_in_a_batch(sizes, seed, batch_size, one):
    of = mixture(*[1.0, 2.5, 0.7][: len(sizes)], one=one)
    batches = MixedBatches(of, sizes, batch_size, seed)
    steps = drawn(batches, 6)
    assert all(len({row for _, row in step}) == batch_size for step in steps)
    for number in range(len(sizes)):
        seen = [pair for step in steps for pair in sorted(step) if source_of(pair[1], sizes) == number]
        assert len(set(seen)) == len(seen)
        passes = [each for each, _ in seen]
        assert passes == sorted(passes)
        complete = [[row for number, row in seen if number == each] for each in range(max(passes, default=0))]
        assert all(len(rows) == sizes[number] for rows in complete)


def test_with_replacement_some_come_again_before_all_were_seen():
    batches = MixedBatches(mixture(1, 1, 1, replacement=True), SIZES, 12, seed=2)
    rows = [row for step in drawn(batches, 1) for _, row in step]
    assert len(set(rows)) < len(rows) and {source_of(row) for row in rows} == {0, 1, 2}


def test_samples_set_the_length_of_an_epoch_and_by_default_it_is_all():
    assert len(MixedBatches(mixture(1, 1, 1), SIZES, 12, seed=0)) == sum(SIZES) // 12
    assert len(MixedBatches(mixture(1, 1, 1, samples=240), SIZES, 12, seed=0)) == 20
    assert len(MixedBatches(mixture(1, 1, 1, samples=250), SIZES, 12, seed=0, drop_last=False)) == 21


def test_weights_inside_a_source_say_how_often_each_of_its_samples_is_seen():
    weights = [np.array([0.0, 3.0, *[1.0] * 21], np.float32), None]
    batches = MixedBatches(mixture(1, 1), (23, 40), 8, seed=0, weights=weights)
    rows = [row for step in drawn(batches, 8) for _, row in step]
    counted = np.bincount(rows, minlength=63)
    assert counted[0] == 0 and counted[1] > 2 * counted[2:23].mean()


def test_a_source_smaller_than_its_weight_needs_is_refused():
    with pytest.raises(ConfigError, match=r"source b: has 5 samples .* asks for 8 in each batch of 16"):
        MixedBatches(mixture(1, 1), (100, 5), 16, seed=0)
    MixedBatches(mixture(1, 1, replacement=True), (100, 5), 16, seed=0)


# the same draws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("one", [False, True])
@pytest.mark.parametrize("ranks", [2, 4])
def test_draws_are_the_same_on_any_number_of_ranks(monkeypatch, ranks, one):
    alone = drawn(MixedBatches(mixture(2, 1, 4, one=one), SIZES, 16, seed=3), 3)
    parts = []
    for me in range(ranks):
        as_ranks(monkeypatch, ranks, me)
        parts.append(drawn(MixedBatches(mixture(2, 1, 4, one=one), SIZES, 16, seed=3), 3))
    assert [[pair for part in step for pair in part] for step in zip(*parts)] == alone
    assert drawn(MixedBatches(mixture(2, 1, 4, one=one), SIZES, 16, seed=4), 1) != alone


@settings(max_examples=20)
@given(st.integers(0, 4), st.integers(0, 6), st.integers(0, 9))
def test_a_resume_draws_what_was_not_seen(epoch, start, seed):
    whole, rest = (MixedBatches(mixture(2, 1, 4), (40, 17, 64), 16, seed) for _ in range(2))
    steps = drawn(whole, 5)
    rest.epoch, rest.start = epoch, start
    assert list(rest) == steps[epoch * len(whole) + start : (epoch + 1) * len(whole)]


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """Three shards -> their counts."""
    folder, counts = tmp_path_factory.mktemp("shards"), {}
    for i, count in enumerate((30, 7, 23)):
        named = ((n, f"{n:04d}") for n in range(count))
        members = {k: v for n, key in named for k, v in ((f"{key}.png", png(n)), (f"{key}.txt", f"shard {i} {n}"))}
        counts[str(shard(folder / f"{i}.tar", members))] = count
    return counts


def loaded(monkeypatch, source, ranks=1, workers=0, epoch=0, start=0) -> list[list[list[int]]]:
    """For each step (row, text, seed of the view) of the whole batch."""
    parts = []
    for me in range(ranks):
        as_ranks(monkeypatch, ranks, me)
        streams = {"streams": 4, "streamed": source.streamed}
        batches = MixedBatches(source.mixture, [len(p) for p in source.parts], 16, seed=3, **streams)
        batches.epoch, batches.start = epoch, start
        views = {"light": lambda decoded, seed: torch.tensor([seed % 1000])}
        samples = Samples(source, frozenset({"pixels", "tokens"}), views, number_of, seed=3)
        made = list(BatchLoader(samples, batches, workers, pin=False))
        assert len(made) == len(batches) - start
        parts.append([torch.cat([b["index"][:, None], b["tokens"], b["pixels"]], dim=1) for b in made])
    return [torch.cat(step).tolist() for step in zip(*parts)]


def number_of(texts):
    return torch.tensor([[sum(map(ord, text))] for text in texts])


def test_shards_and_a_small_set_give_the_same_batches_on_any_ranks_and_workers_and_after_a_stop(
    monkeypatch, shards, toy_pairs
):
    source = MixedSource([streamed(shards, block=20), toy_pairs(24)], mixture(1, 1))
    alone = loaded(monkeypatch, source)
    assert all(sum(row < 60 for row, *_ in step) % 4 == 0 for step in alone)
    assert {row < 60 for step in alone for row, *_ in step} == {True, False}
    of_shards = [row for step in alone for row, *_ in step if row < 60]
    assert len(set(of_shards)) == len(of_shards) and max(row for step in alone for row, *_ in step) > 60
    for ranks, workers in ((2, 0), (1, 3), (2, 2)):
        assert loaded(monkeypatch, source, ranks, workers) == alone
    second = loaded(monkeypatch, source, epoch=1)
    assert second != alone and loaded(monkeypatch, source, epoch=1, start=2, ranks=2) == second[2:]


def test_names_of_sources_are_never_alike():
    names = names_of([NamedSource("a-3.csv"), NamedSource("a.csv"), NamedSource("other/a.csv")])
    assert names[:2] == ["a-3", "a"] and len(set(names)) == 3
    shards = ("s3://bucket/laion/{00000..00999}.tar", "d/sh-{0..2}.tar", "..")
    assert names_of([NamedSource(path) for path in shards]) == ["laion", "sh", "source-3"]


def test_weights_of_any_size_are_shares():
    assert source_shares([1e308, 1e308], [1, 1], False) == (0.5, 0.5)


def test_weights_beside_those_of_stages_are_refused(tmp_path):
    place = tmp_path / "stages.json"
    place.write_text('[{"weights": [1, 1]}]')
    sources, asked = [NamedSource("a.csv", 2.0), NamedSource("b.csv")], SourceOptions(stages=str(place))
    with pytest.raises(ConfigError, match=r"--data a.csv=2.0: the weights are those of --stages"):
        mixture_of(sources, asked, ["a", "b"], [1, 1])
    assert mixture_of([NamedSource("a.csv"), sources[1]], asked, ["a", "b"], [9, 1]).stages[0].shares == (0.5, 0.5)


def test_samples_of_shards_are_not_drawn_anew():
    with pytest.raises(ConfigError, match=r"source b: is read in sequence, so its samples cannot be drawn anew"):
        MixedBatches(mixture(1, 1, replacement=True), (40, 40), 8, seed=1, streams=2, streamed=(False, True))


def test_a_stage_that_never_begins_is_refused_before_the_training(toy_pairs):
    stages = MixtureStage(6, (1.0, 0.0)), MixtureStage(None, (0.5, 0.5))
    source = MixedSource([toy_pairs(24), toy_pairs(24)], Mixture(("a", "b"), stages))
    check_mixture(source, TrainingSettings(epochs=2, batch_size=8), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"--stages: a stage ends after 6 steps, and the training has 6"):
        check_mixture(source, TrainingSettings(epochs=1, batch_size=8), torch.device("cpu"))
    with pytest.raises(ConfigError, match=r"source a: has 24 samples"):
        check_mixture(source, TrainingSettings(epochs=9, batch_size=32), torch.device("cpu"))


def test_stored_features_are_looked_up_for_each_source_and_names_in_two_of_them_are_refused(tmp_path):
    first, second = labelled_table(tmp_path / "a", "cat"), labelled_table(tmp_path / "b", "dog")
    looked_up = []
    teacher = SimpleNamespace(check=looked_up.append)
    with pytest.raises(ConfigError, match=r"two sources have an image called 0.png"):
        check_stored([teacher], MixedSource([first, second], mixture(1, 1)))
    assert looked_up == [first, second]


def test_the_loss_of_a_source_is_that_of_its_rows():
    torch.manual_seed(2)
    image, text = (torch.nn.functional.normalize(torch.randn(7, 5), dim=1) for _ in range(2))
    out = {"image_features": image, "text_features": text, "logit_scale": torch.tensor(9.0)}
    out["index"] = torch.tensor([0, 3, 9, 4, 3, 8, 2])  # the second source has no row, the first those below 4
    told = SourceLosses(("a", "b", "c"), (0, 4, 4, 10))(rank_batch(out, frozenset({"logit_scale"})))
    scores = 9 * image @ text.T
    of_rows = -(scores.log_softmax(1).diagonal() + scores.log_softmax(0).diagonal()) / 2 / 7
    expected = of_rows[out["index"] < 4].sum(), 0.0, of_rows[out["index"] >= 4].sum()
    assert [value.item() for value in told.values()] == pytest.approx([float(each) for each in expected], rel=1e-5)


# several sources as one -----------------------------------------------------------------------------------------------


def labelled_table(folder, *labels, further="") -> PairSource:
    """One pair per label; a further column of texts, if any."""
    folder.mkdir()
    rows = [f"image,caption,label{further and ',' + further}"]
    for n, label in enumerate(labels):
        Image.new("RGB", (8, 8), (40 * n, 10, 10)).save(folder / f"{n}.png")
        rows.append(f"{n}.png,{label} {n},{label}{further and ',x'}")
    (folder / "pairs.csv").write_text("\n".join(rows))
    columns = {further: "text"} if further else {}
    return PairSource(read_pairs(folder / "pairs.csv", split="train", columns=columns), CaptionSampler("first"))


def test_rows_images_and_classes_of_sources_are_told_apart(tmp_path):
    parts = [
        labelled_table(tmp_path / "a", "cat", "dog", further="caption_de"),
        labelled_table(tmp_path / "b", "bird", "dog"),
    ]
    source = MixedSource(parts, mixture(1, 1))
    assert len(source) == 4 and source.labelled and num_labels_of(source) == 3
    labels = [source.label(row) for row in range(4)]
    assert labels[1] == labels[3] and len(set(labels)) == 3
    assert len({source.image_id(row) for row in range(4)}) == 4
    assert [source.text("caption", row, 0) for row in range(4)] == ["cat 0", "dog 1", "bird 0", "dog 1"]
    assert "caption_de" not in source.texts and not source.columns  # the other source has none
    assert MixedSource(parts[:1], mixture(1)).columns == {"caption_de": "text"}


def test_a_sample_that_cannot_be_read_is_replaced_by_one_of_its_source(toy_pairs):
    source = MixedSource([toy_pairs(8, frozenset({7})), toy_pairs(8)], mixture(1, 1))
    made = Samples(source, frozenset({"pixels"}), {"light": lambda decoded, seed: torch.zeros(1)}, number_of, seed=1)[
        0, 7
    ]
    assert made["index"] == 0 and made["broken"][0][0] == "toy-7"


# texts beside images --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_source(tmp_path_factory):
    table = tmp_path_factory.mktemp("texts") / "texts.csv"
    table.write_text("en,de\n" + "".join(f"a red area {n},ein rotes Feld {n}\n" for n in range(24)))
    return TextSource(read_text_pairs(table, val=0, test=0))


def one_step(towers, source, losses=("clip",)):
    settings = TrainingSettings(epochs=1, steps=1, batch_size=8, lr=1e-3, warmup=0.0, seed=3)
    return train(towers, TrainingTask(source, dict.fromkeys(losses, 1.0)), settings, None)


def test_a_batch_of_texts_has_a_sentence_in_the_place_of_the_image(fresh_clip, toy_pairs, text_source):
    only = Mixture(("images", "texts"), (MixtureStage(None, (0.0, 1.0)),), one=True)
    source = MixedSource([toy_pairs(24), text_source], only)
    rows = next(iter(MixedBatches(only, (24, 24), 8, seed=3)))
    pairs = [text_source.pairs[row - 24] for _, row in rows]
    sides = [fresh_clip.encode_text([pair[side] for pair in pairs]).detach() for side in (0, 1)]
    expected = build_loss("clip")(
        {"image_features": sides[0], "text_features": sides[1], "logit_scale": fresh_clip.logit_scale.detach()}
    )["loss"]
    before = {name: value.clone() for name, value in fresh_clip.model.state_dict().items()}
    history = one_step(fresh_clip, source).history
    assert history[0]["loss"] == pytest.approx(expected.item(), rel=1e-4)
    moved = {name for name, value in fresh_clip.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and not any(name.startswith("visual.") for name in moved)


def test_texts_share_no_batch_with_images_and_train_no_loss_that_looks_at_more(fresh_clip, toy_pairs, text_source):
    with pytest.raises(ConfigError, match=r"source b: holds texts without images.*sources.batch=one"):
        MixedSource([toy_pairs(24), text_source], mixture(1, 1))
    with pytest.raises(CapabilityError, match=r"loss silc needs .* of every sample"):
        one_step(fresh_clip, MixedSource([toy_pairs(24), text_source], mixture(1, 1, one=True)), ("silc",))
