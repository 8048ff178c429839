"""ReCo: co-segmentation beside literal loops, archives of three kinds, references, and scores place by place."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
pytest.importorskip("open_clip", reason="extra open-clip is not installed")

from safetensors.torch import save_file

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.engine.embed import embed
from vladapt.core.engine.index import index
from vladapt.core.recipes.resolve import resolve
from vladapt.core.testing.towers import drawn_clip
from vladapt.domains.open_vocab.modules.segmentors.maskclip import value_features
from vladapt.domains.open_vocab.modules.segmentors.reco.archive import Archive, as_square
from vladapt.domains.open_vocab.modules.segmentors.reco.references import cosegment, likeness, without_context
from vladapt.domains.open_vocab.modules.segmentors.reco.segmentor import ReCo, published_scenes
from vladapt.domains.open_vocab.text_embeddings import set_classes
from vladapt.domains.open_vocab.vocabulary import Vocabulary, embed_queries
from vladapt.registry import MODELS

CONFIG = {
    "embed_dim": 24,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 16, "layers": 2, "width": 32, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 32, "heads": 2, "layers": 1},
}
SMALL = {"archive_size": 16, "short_side": 32, "k": 3, "templates": "photo", "context": "sky, road"}


@pytest.fixture(scope="module")
def other_spec(tmp_path_factory):
    """A second tower, for the features that are compared between images."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "c.json").write_text(json.dumps(CONFIG))
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = drawn_clip(CONFIG)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "c.safetensors")
    return f"open_clip:{folder / 'c.json'}@{folder / 'c.safetensors'}"


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Eight pictures of coloured blocks."""
    folder, rng = tmp_path_factory.mktemp("archive"), np.random.default_rng(0)
    for number in range(8):
        blocks = rng.integers(0, 255, (3, 4, 3)).astype(np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8))).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def build(small_clip_spec, other_spec, archive):
    def make(classes="cat, dog", **options):
        given = {"archive": str(archive), "features": other_spec, **SMALL, **options}
        return ReCo(small_clip_spec, classes, **given).eval()

    return make


def pixels(count=2, size=(32, 48)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(0))


# Co-segmentation ------------------------------------------------------------------------------------------------------


def loops(features, weights, released=False):
    """The published procedure, place by place."""
    images, _, height, width = features.shape
    size = height * width
    unit = [
        F.normalize(features[i, :, y, x], dim=0) for i in range(images) for y in range(height) for x in range(width)
    ]
    flat = weights.flatten()
    adjacency = [[float(a @ b) * float(flat[j]) for j, b in enumerate(unit)] for a in unit]
    grid, start = [[] for _ in unit], 0
    for _ in range(images):
        end = start + size
        stop = start + end if released else end
        for row, alike in zip(grid, adjacency):
            row.append(max(alike[start:stop]))
        start = end
    common = [sum(row) / images for row in grid]
    seeds = [max(range(size), key=lambda place: common[i * size + place]) for i in range(images)]
    chosen = [features[i, :, seed // width, seed % width] for i, seed in enumerate(seeds)]
    mean = torch.stack(chosen).mean(dim=0)
    return mean / mean.norm(), seeds


@pytest.fixture
def scene():
    generator = torch.Generator().manual_seed(3)
    return torch.randn(4, 5, 2, 3, generator=generator), torch.rand(4, 2, 3, generator=generator)


@pytest.mark.parametrize("released", [False, True])
def test_cosegmentation_is_the_literal_procedure(scene, released):
    reference, seeds = cosegment(*scene, released_windows=released)
    expected, expected_seeds = loops(*scene, released=released)
    assert seeds.tolist() == expected_seeds
    torch.testing.assert_close(reference, expected)


def test_each_image_is_looked_for_in_its_own_columns_not_in_the_next_ones(scene):
    """The released code's window of image i ends at twice its end; the paper takes the image's own."""
    differing = 0
    for seed in range(10):
        features = torch.randn(4, 5, 2, 3, generator=torch.Generator().manual_seed(seed))
        differing += cosegment(features)[1].tolist() != cosegment(features, released_windows=True)[1].tolist()
    assert differing


def test_rows_at_once_change_nothing(scene):
    whole = cosegment(*scene)[0]
    for rows in (1, 5, 7):
        torch.testing.assert_close(cosegment(*scene, rows_at_once=rows)[0], whole)


def test_what_all_images_share_is_found_and_what_lies_around_is_kept_out():
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(5, 64, 3, 3, generator=generator)
    thing, sky = torch.linalg.qr(torch.randn(64, 2, generator=generator)).Q.T * 20
    places = [(i % 3, (i + 1) % 3) for i in range(5)]
    for image, (y, x) in zip(features, places):
        image[:, y, x] = thing + 0.3 * torch.randn(64, generator=generator)
        image[:, (y + 1) % 3, x] = sky  # the same everywhere, which the thing is not quite
    _, seeds = cosegment(features)
    assert seeds.tolist() == [((y + 1) % 3) * 3 + x for y, x in places]
    reference, seeds = cosegment(features, without_context(features, torch.stack([sky, sky])))
    assert seeds.tolist() == [y * 3 + x for y, x in places]
    assert F.cosine_similarity(reference, thing, dim=0) > 0.97


def test_weights_of_places_decide_among_them(scene):
    features, _ = scene
    weights = torch.full((4, 2, 3), 1e-3)
    weights[:, 1, 2] = 1.0
    plain, chosen = cosegment(features)[1], cosegment(features, weights)[1]
    assert plain.tolist() != chosen.tolist()


def test_likeness_and_context_are_sigmoids_of_cosines(scene):
    features, rows = scene[0], torch.randn(2, 5)
    for scale in (1.0, 10.0):
        cosine = F.cosine_similarity(features[1, :, 1, 2], rows[1], dim=0)
        torch.testing.assert_close(likeness(features, rows, scale)[1, 1, 1, 2], torch.sigmoid(scale * cosine))
    one = likeness(features, rows)
    torch.testing.assert_close(without_context(features, rows), (1 - one[:, 0]) * (1 - one[:, 1]))


# Archives -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def query(small_clip_spec):
    return embed_queries(Vocabulary.of("cat"), load_backbone(small_clip_spec, "cpu"))[0]


def fetched(path, spec, query, count=3):
    return Archive.of(path, load_backbone(spec, "cpu")).images(query, count)


def test_a_folder_an_index_and_a_features_file_fetch_the_same_images(archive, small_clip_spec, query, tmp_path):
    pytest.importorskip("faiss", reason="extra retrieval is not installed")
    recipe = resolve(flags={"backbone": small_clip_spec})
    index(recipe, tmp_path / "index", images=[archive])
    embed(resolve(flags={"backbone": small_clip_spec, "domain": "medical"}), tmp_path / "f.npz", images=[archive])
    expected = fetched(archive, small_clip_spec, query)
    assert len(expected) == 3 and expected[0].shape == (24, 32, 3)
    for path in (tmp_path / "index", tmp_path / "f.npz"):
        for one, other in zip(fetched(path, small_clip_spec, query), expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_nearest_come_first_and_no_more_than_there_are(archive, small_clip_spec, query):
    backbone = load_backbone(small_clip_spec, "cpu")
    images = fetched(archive, small_clip_spec, query, 50)
    assert len(images) == 8
    with torch.no_grad():
        rows = backbone.encode_image(torch.stack([backbone.preprocess()(image) for image in images]))
    scores = rows @ query
    assert torch.equal(scores, scores.sort(descending=True).values)


def test_features_of_another_backbone_and_empty_folders_are_refused(
    archive, small_clip_spec, other_spec, query, tmp_path
):
    save_file({"image_features": torch.ones(2, 24)}, tmp_path / "f.safetensors", {"ids": '["a", "b"]', "backbone": "x"})
    with pytest.raises(CapabilityError, match="retrieval_backbone=SPEC"):
        fetched(tmp_path / "f.safetensors", small_clip_spec, query)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no readable image"):
        fetched(tmp_path / "empty", small_clip_spec, query)
    save_file({"image_features": torch.ones(2, 24)}, tmp_path / "g.safetensors", {"ids": '["a.png", "b"]'})
    with pytest.raises(DataError, match=r"a\.png"):
        fetched(tmp_path / "g.safetensors", small_clip_spec, query)


def test_fetched_images_are_squares_of_their_middle():
    image = np.zeros((10, 20, 3), np.uint8)
    image[:, 5:15] = 255
    assert (as_square(image, 10) == 1).all()
    assert as_square(image, 7).shape == (3, 7, 7)
    assert as_square(image.astype(np.float32) / 255, 10).max() == 1


# The segmentor --------------------------------------------------------------------------------------------------------


def by_hand(model, archive, prompts, contexts):
    """A reference as published, from the archive's files."""
    clip, encoder = model.tower(torch.device("cpu")), model.encoder(torch.device("cpu"))
    text = embed_queries(Vocabulary(("x",), (prompts,), (0,)), clip)[0]
    files = sorted(archive.glob("*.png"))
    pictures = [np.asarray(Image.open(file)) for file in files]
    rows = clip.encode_image(torch.stack([clip.preprocess()(picture) for picture in pictures]))
    best = (rows @ text).argsort(descending=True)[: model.k]
    images = torch.stack([as_square(pictures[i], model.archive_size) for i in best])

    def normalised(backbone):
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (backbone.image_mean, backbone.image_std))
        return ((images - mean) / std).float()

    features = encoder.feature_maps(normalised(encoder))[-1]
    dense = F.normalize(value_features(clip, normalised(clip))[0], dim=1)
    scale = 10 * float(clip.logit_scale) / 100
    weights = torch.sigmoid(scale * torch.einsum("bdhw,d->bhw", dense, text))
    assert weights.shape[1:] == features.shape[2:]
    for context in contexts:
        weights = weights * (1 - torch.sigmoid(torch.einsum("bdhw,d->bhw", F.normalize(features, dim=1), context)))
    return loops(features, weights)[0]


@torch.no_grad()
def test_references_are_made_as_published_one_context_after_another(build, archive):
    model = build()
    sky, road, cat = ((f"a photo of a {name}.",) for name in ("sky", "road", "cat"))
    contexts = [by_hand(model, archive, sky, [])]
    contexts.append(by_hand(model, archive, road, contexts))
    expected = by_hand(model, archive, cat, contexts)
    torch.testing.assert_close(model.current_references()[0], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_class_that_is_a_context_has_the_contexts_reference(build, archive):
    model = build("sky, cat")
    sky = by_hand(model, archive, ("a photo of a sky.",), [])
    torch.testing.assert_close(model.current_references()[0], sky, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_scores_are_likeness_to_the_reference_times_attention_to_the_text(build):
    model, given = build(), pixels(1, (16, 24))
    features, dense = model.places(given), model.dense_features(given)
    up = {"size": (16, 24), "mode": "bilinear", "align_corners": False}
    alike = torch.einsum("bdhw,qd->bqhw", F.normalize(features, dim=1), model.current_references()).sigmoid()
    scale = 10 * float(model.tower(given.device).logit_scale) / 100
    told = torch.sigmoid(scale * torch.einsum("bdhw,qd->bqhw", F.normalize(dense, dim=1), model.queries()))
    expected = F.interpolate(alike, **up) * F.interpolate(told, **up)
    torch.testing.assert_close(model.query_logits(given), expected)
    without = build(text_at_test=False)
    torch.testing.assert_close(without.query_logits(given), F.interpolate(alike, **up))


@pytest.mark.parametrize(
    "option",
    [
        {"k": 5},
        {"context": ""},
        {"context": "tree"},
        {"text_attention": False},
        {"features_layer": 0},
        {"features_layer": "tokens"},
        {"features": None},
        {"archive_size": 24},
        {"logit_scale": 40.0},
        {"templates": "name"},
    ],
    ids=lambda option: "-".join(map(str, next(iter(option.items())))),
)
def test_every_option_changes_the_references(build, option):
    names = "cat, dog, bus, cow, pig, hat"
    plain, changed = (build(names, **given).current_references() for given in ({}, option))
    assert plain.shape != changed.shape or not torch.allclose(plain, changed, atol=1e-5)


def test_released_windows_are_an_option(build):
    more = {"k": 8, "archive_size": 32}
    plain, released = (build("cat, dog, bus", **more, released_windows=on).current_references() for on in (False, True))
    assert not torch.allclose(plain, released, atol=1e-5)


def test_another_backbone_may_fetch(build, other_spec):
    assert not torch.allclose(
        build("cat, dog, bus").current_references(),
        build("cat, dog, bus", retrieval_backbone=other_spec).current_references(),
    )


def test_it_segments_to_the_size_of_the_original(build):
    from mmseg.structures import SegDataSample

    model = build("cat, background, dog")
    sample = SegDataSample(metainfo={"ori_shape": (20, 30), "img_shape": (32, 48)})
    found = model.predict(pixels(1), [sample])[0]
    assert found.pred_sem_seg.data.shape == (1, 20, 30) and found.seg_logits.data.shape == (3, 20, 30)
    scores = found.seg_logits.data
    assert scores.min() > 0 and scores.max() < 1
    assert torch.equal(found.pred_sem_seg.data[0], scores.argmax(dim=0))
    strict = build("cat, background, dog", prob_thd=0.99)
    assert (strict.predict(pixels(1), [sample])[0].pred_sem_seg.data == 1).all()
    with pytest.raises(CapabilityError, match="nothing to train"):
        model.loss(pixels(1), [sample])


def test_synonyms_have_references_of_their_own(build):
    model = build({"cat": {"synonyms": ["kitten"]}, "dog": []})
    assert model.current_references().shape[0] == 3
    assert model.encode_decode(pixels(1)).shape == (1, 2, 32, 48)


def test_new_names_have_new_references(build):
    model = build()
    before = model.current_references()
    set_classes(model, "dog, bus, cat")
    after = model.current_references()
    torch.testing.assert_close(after[[2, 0]], before)
    assert model.encode_decode(pixels(1)).shape[1] == 3


def test_references_are_made_once(build, monkeypatch):
    made = []
    original = Archive.images
    monkeypatch.setattr(Archive, "images", lambda self, *given: made.append(1) or original(self, *given))
    model = build()
    for _ in range(2):
        model.encode_decode(pixels(1))
    assert len(made) == 4, "two contexts, two classes"


# Kept references ------------------------------------------------------------------------------------------------------


def test_kept_references_need_no_archive(build, tmp_path):
    file = tmp_path / "kept.safetensors"
    made = build(references=str(file)).current_references()
    again = build(archive=None, references=str(file))
    assert torch.equal(again.current_references(), made)
    with pytest.raises(ConfigError, match=r"holds none for 'a photo of a bus.*; give archive=FOLDER"):
        build("cat, bus", archive=None, references=str(file)).current_references()
    more = build("cat, bus", references=str(file)).current_references()
    assert torch.equal(more[0], made[0])
    assert build("bus", archive=None, references=str(file)).current_references().equal(more[1:])


def test_references_made_by_other_options_are_refused(build, tmp_path):
    file = tmp_path / "kept.safetensors"
    build(references=str(file)).current_references()
    with pytest.raises(ConfigError, match="made with another k"):
        build(references=str(file), k=2).current_references()
    (tmp_path / "text.safetensors").write_text("no")
    with pytest.raises(DataError, match="not a file of references"):
        build(references=str(tmp_path / "text.safetensors")).current_references()
    with pytest.raises(ConfigError, match=r"is written as \.safetensors"):
        build(references="kept.pkl").current_references()


# The rest -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"k": 0}, {"archive_size": 0}, {"rows_at_once": 0}, {"archive": None}])
def test_options_that_cannot_be_used_are_refused_by_name(build, options):
    name = next(iter(options))
    with pytest.raises(ConfigError, match=name):
        build(**options)


def test_the_published_templates_are_the_default(build):
    templates = published_scenes()
    assert len(templates) == 85 and "there is a {} in the scene." in templates
    assert build("cat", templates=None).queries.asked.queries[0][-1] == "this is one cat in the scene."


def test_references_are_not_in_checkpoints_and_configs_name_it(small_clip_spec, archive):
    config = {"type": "vladapt.ReCo", "backbone": small_clip_spec, "classes": ["cat"], "archive": str(archive)}
    model = MODELS.build(config)
    assert model.k == 50 and model.context == ["tree", "sky", "building", "road", "person"]
    assert not any("reference" in name or "queries" in name for name in model.state_dict())
