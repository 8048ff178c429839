"""Plain folders: as `fit` reads them, by the prompts of the domain, beside what protocols publish."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from vladapt.core.bench.sets.labelled import Labelled, published_zero_shot
from vladapt.core.contracts.items import Boxes, DomainData, Item
from vladapt.core.contracts.recipe import Recipe
from vladapt.core.data.images import decode_image
from vladapt.core.engine.bench import bench
from vladapt.core.errors import DataError
from vladapt.core.registry import load_domain

CLASSES = ("apple", "brick wall", "fog", "grass")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """16 images in train, 24 in test, of four classes."""
    place, generator = tmp_path_factory.mktemp("plain") / "things", torch.Generator().manual_seed(0)
    for split, each in (("train", 4), ("test", 6)):
        for name in CLASSES:
            (place / split / name).mkdir(parents=True)
            for number in range(each):
                pixels = torch.randint(256, (2, 2, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels.repeat(6, axis=0).repeat(6, axis=1)).save(place / split / name / f"{number}.png")
    return place


def test_test_images_are_scored_by_the_prompts_of_the_domain(folders, small_clip, small_clip_spec):
    made = bench(Recipe(), [small_clip_spec], [folders])
    files = [
        (file, label) for label, name in enumerate(CLASSES) for file in sorted((folders / "test" / name).iterdir())
    ]
    transform = small_clip.preprocess(False)
    images = small_clip.encode_image(torch.stack([transform(decode_image(file, {})) for file, _ in files])).detach()
    texts = small_clip.encode_text([f"a photo of a {name}." for name in CLASSES]).detach()
    answers = (images @ texts.T).argmax(dim=1)
    right = answers == torch.tensor([label for _, label in files])
    of = {row["measure"]: row for row in made.rows}
    assert (
        of["acc1"]["value"] == pytest.approx(float(right.double().mean()))
        and of["acc1"]["count"] == 24
        and len(answers.unique()) > 1
    )
    assert "acc5" not in of and of["acc1"]["published"] == {}


def test_prompts_of_the_user_are_taken(folders, small_clip_spec):
    own = Recipe(templates=["a drawing of the {}", "{} at night"], given=frozenset({"templates"}))
    values = [
        {row["measure"]: row["value"] for row in bench(of, [small_clip_spec], [folders]).rows} for of in (own, Recipe())
    ]
    assert values[0] != values[1]


def test_a_language_asks_in_its_words_and_a_backbone_without_it_gets_a_note(folders, small_clip_spec):
    german = Recipe(language="de", given=frozenset({"language"}))
    asked, plain = (bench(of, [small_clip_spec], [folders]) for of in (german, Recipe()))
    assert [row["value"] for row in asked.rows] != [row["value"] for row in plain.rows]
    assert any("not known to have learned German" in note for note in asked.notes)
    assert any(note.startswith("Classes without a name in German") for note in asked.notes)


def test_a_published_result_beside_data_without_splits_gets_a_note(folders, small_clip_spec, monkeypatch):
    from vladapt.core.bench.sets import labelled

    monkeypatch.setattr(labelled, "published_zero_shot", lambda *of: {"a paper": 0.5})
    whole, divided = (bench(Recipe(), [small_clip_spec], [place]) for place in (folders / "test", folders))
    assert any("so all images are tested" in note for note in whole.notes)
    assert not any("so all images are tested" in note for note in divided.notes)
    assert whole.rows[0]["published"] == {"a paper": 0.5}


def test_images_without_labels_are_refused(folders, small_clip_spec, tmp_path):
    (tmp_path / "loose").mkdir()
    for number, file in enumerate((folders / "train" / "fog").iterdir()):
        (tmp_path / "loose" / f"{number}.png").write_bytes(file.read_bytes())
    with pytest.raises(DataError):
        bench(Recipe(), [small_clip_spec], [tmp_path / "loose"])


@pytest.mark.parametrize(
    ("items", "said"),
    [([Item("a", "a.png", target=Boxes(), split="test")], "no test image has a class"), ([], "no test images")],
)
def test_what_has_no_classes_is_refused_before_anything_is_computed(items, said):
    data = DomainData(items, ("red", "blue"), None, "boxes")
    towers = SimpleNamespace(read=lambda folder: SimpleNamespace(data=data))
    benchmark = Labelled()
    benchmark.folder = Path("boxes")
    with pytest.raises(DataError, match=f"--data boxes: {said}"):
        benchmark.check(towers)


def test_zero_shot_of_protocols_is_shown_for_the_same_prompts_alone():
    domain = load_domain("natural")
    domain.use_preset("imagenet")
    templates = domain.templates()

    def of(templates, published="imagenet"):
        data = SimpleNamespace(published=published)
        return published_zero_shot(
            SimpleNamespace(data=data, domain=domain, task="", templates=templates), "openai-rn50"
        )

    assert of(templates) == {
        "imagenet under full-val: Tip-Adapter, exp.log of github.com/gaopengcuhk/Tip-Adapter": 0.6032
    }
    assert of([domain.one_template()]) == {} and of(templates, None) == {}
