"""HYPE beside the released code, and what its options do."""

import numpy as np
import pytest
from parity_checks import filters

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators.hype import cone_violations, exponential_map
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.registry import build_curator


@pytest.fixture(scope="module")
def released(parity):
    return parity.reference("hype_scores")


def files(folder, **rows):
    for name, each in rows.items():
        np.save(folder / f"{name}.npy", each)
    return {name: str(folder / f"{name}.npy") for name in rows}


def test_points_cones_and_distances_are_those_of_the_released_code(agrees):
    agrees(filters.hype_)


def test_scores_of_pairs_are_those_of_the_released_code(released, tmp_path):
    references = files(
        tmp_path,
        reference_images=released["reference_image"].numpy(),
        reference_texts=released["reference_text"].numpy(),
    )
    image, text = released["image"].numpy(), released["text"].numpy()
    pairs = PairTable.of([f"{number:03d}" for number in range(len(image))], image_features=image, caption_features=text)
    curator = build_curator(
        "hype", **references, curvature=released.setting("curvature"), aperture=released.setting("aperture_constant")
    )
    decision = curator.decide_all(pairs)
    released.assert_close(decision.scores["image_specificity"], "specificity_image")
    released.assert_close(decision.scores["text_specificity"], "specificity_text")
    similarity = released["similarity"].numpy().diagonal()
    np.testing.assert_allclose(decision.scores["similarity"], similarity, atol=2e-4, rtol=2e-4)
    total = similarity + released["specificity_image"].numpy() + released["specificity_text"].numpy()
    np.testing.assert_allclose(decision.scores["hype"], total, atol=6e-4)
    assert decision.keep.sum() == int(0.2 * len(image))
    assert total[decision.keep].min() > total[~decision.keep].max()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    random = np.random.default_rng(0)
    image, text = random.normal(size=(60, 8)), 0.5 * random.normal(size=(60, 8))
    pairs = PairTable.of(
        [f"{number:02d}" for number in range(60)],
        image_features=image.astype(np.float32),
        caption_features=text.astype(np.float32),
        extra=random.normal(size=60),
        more=random.normal(size=60),
    )
    folder = tmp_path_factory.mktemp("references")
    rows = {"reference_images": random.normal(size=(9, 8)), "reference_texts": 0.5 * random.normal(size=(9, 8))}
    return pairs, files(folder, **rows), files(folder, others=random.normal(size=(9, 8)))["others"]


def test_each_option_changes_what_is_kept(drawn):
    pairs, references, others = drawn
    usual = {**references, "curvature": 0.1}
    keep = build_curator("hype", **usual).decide_all(pairs).keep
    changes = [
        {"curvature": 1.0},
        {"keep": 0.4},
        {"aperture": 0.4},
        {"add": "extra"},
        {"add": "extra, more"},
        {"reference_images": others},
        {"reference_texts": others},
    ]
    kept = [build_curator("hype", **{**usual, **change}).decide_all(pairs) for change in changes]
    assert not any(np.array_equal(each.keep, keep) for each in kept)
    plain = build_curator("hype", **usual).decide_all(pairs).scores["hype"]
    added = plain + pairs.numbers("extra") + pairs.numbers("more")
    np.testing.assert_allclose(kept[4].scores["hype"], added, rtol=1e-5, atol=1e-5)


def test_references_are_compared_in_blocks(drawn, monkeypatch):
    pairs, references, _ = drawn
    curator = build_curator("hype", **references, curvature=0.1)
    whole, sizes = curator.decide_all(pairs), []

    def watched(*args):
        sizes.append(len(args[0]) * len(args[1]))
        return cone_violations(*args)

    monkeypatch.setattr("vladapt.core.curators.hype.REFERENCES_AT_ONCE", 4)
    monkeypatch.setattr("vladapt.core.curators.hype.cone_violations", watched)
    parts = curator.decide_all(pairs)
    assert max(sizes) == 60 * 4
    for name, scores in whole.scores.items():
        np.testing.assert_allclose(parts.scores[name], scores, rtol=1e-5)


def test_a_text_near_the_origin_holds_an_image_further_out_in_its_direction():
    text, image = np.array([[0.2, 0.0]]), np.array([[2.0, 0.1], [-2.0, 0.0]])
    points = exponential_map(text, 1.0), exponential_map(image, 1.0)
    inside, outside = cone_violations(*points, 1.0)[0]
    assert inside < 0 < outside


def test_bad_input_is_one_line(drawn, tmp_path):
    pairs, references, _ = drawn
    with pytest.raises(ConfigError, match="needs curvature"):
        build_curator("hype", **references)
    narrow = files(tmp_path, narrow=np.ones((3, 2)))["narrow"]
    with pytest.raises(DataError, match="2 numbers per row, the pairs have 8"):
        build_curator("hype", **{**references, "reference_texts": narrow}, curvature=0.1).decide_all(pairs)
    with pytest.raises(DataError, match="no column 'clip'"):
        build_curator("hype", **references, curvature=0.1, add="clip").decide_all(pairs)
