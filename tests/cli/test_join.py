"""`vladapt join`: towers put together on the command line."""

from __future__ import annotations

import json

import pytest
import torch

COLOURS = {"red": (1.0, 0.1, 0.1), "green": (0.1, 1.0, 0.1), "blue": (0.1, 0.1, 1.0)}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """30 images of one colour with a caption each; the test split too has each colour."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("pairs")
    generator = torch.Generator().manual_seed(0)
    lines = ["image,caption,label,split"]
    for number in range(30):
        name, colour = list(COLOURS.items())[number % 3]
        pixels = torch.tensor(colour) * 200 + 50 * torch.rand(16, 16, 3, generator=generator)
        Image.fromarray(pixels.clamp(0, 255).byte().numpy()).save(folder / f"{number}.png")
        lines.append(f"{number}.png,a {name} thing number {number},{name},{'test' if number >= 24 else 'train'}")
    (folder / "pairs.csv").write_text("\n".join(lines))
    return folder / "pairs.csv"


def test_pairs_make_a_backbone_that_searches(vladapt, pairs, small_clip_spec, tmp_path):
    out = tmp_path / "joined"
    outcome = vladapt("join", "--image", small_clip_spec, "--text", small_clip_spec, "--pairs", pairs, "--out", out)
    assert outcome.code == 0, outcome.err
    for said in (
        "Maps, by cross-validation",
        "fitted on 24 pairs of an image and a text; on data like these it is not zero-shot",
        "On 6 held-out images",
        "(guessing: 16.7%, rank 3.5). Captions name the class of ",
    ):
        assert said in " ".join(outcome.out.split())
    named = json.loads((out / "joined.json").read_text())
    assert named["made"]["pairs"] == "pairs.csv" and str(pairs.parent) not in json.dumps(named["made"]["held_out"])
    assert "| procrustes |" in (out / "README.md").read_text()
    found = vladapt("embed", pairs.parent / "0.png", "--backbone", out, "--out", tmp_path / "f.npz")
    assert found.code == 0 and "feature width 24" in found.out, found.err


def test_every_option_changes_the_map(vladapt, pairs, small_clip_spec, write_clip, tmp_path):
    base = ["join", "--image", small_clip_spec, "--text", write_clip(width=16), "--pairs", pairs, "--json"]

    def weights(*options):
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        outcome = vladapt(*base, "--out", out, *options)
        assert outcome.code == 0, outcome.err
        made = json.loads(outcome.out)
        assert made["folder"] == str(out)
        return made["map"], made["scale"], (out / "space.safetensors").read_bytes()

    named = weights("--map", "procrustes")
    assert named[0] == "procrustes"
    penalised, published = weights("--ridge", "50"), weights("--map", "ridge")
    assert (penalised[0], published[0]) == ("ridge 50", "ridge 1") and penalised[2] != published[2]
    assert weights("--map", "procrustes", "--prefix", "the old ")[2] != named[2]
    assert weights("--map", "procrustes", "--seed", "5")[1] != named[1]


@pytest.mark.parametrize(
    "options, said",
    [
        ("--pairs {pairs} --names names.txt", "--pairs and --names: the space is made of either; omit one"),
        ("--pairs {pairs} --keep-image 80", "--keep-image: is of a space made of names; omit it with --pairs"),
        ("--map ridge", "--map: is of a map from pairs or sentences; give --pairs DATA, or omit it"),
        ("--ridge 3", "--ridge: is of a map from pairs or sentences; give"),
        ("--pairs {pairs} --map spline", "map 'spline' is not known; give auto, least-squares"),
        ("--pairs {pairs} --map procrustes --ridge 2", "ridge=2: the map procrustes has no penalty"),
        ("--pairs {pairs} --pooling mean", "is a backbone, which pools its texts itself; omit it"),
        ("--pairs nowhere", "nowhere"),
        ("--names nowhere.txt", "nowhere.txt"),
        ("--translated a,b", "--translated: names columns of --sentences"),
        ("--sentences {pairs} --translated image", "give two columns or more, FROM,TO (image, caption, label, split)"),
        ("--sentences {pairs} --translated image,capton", "no column 'capton'; did you mean caption"),
        ("--sentences {few} --translated caption,image", "few.csv: 7 sentences are too few, of which a fifth is held"),
        ("--names {latin}", "latin.txt: "),
        ("--untrained text-head --space-width 8", "--space-width 8: is of --untrained projections; omit it"),
        ("--untrained text-head --map ridge", "--map: is of a map from pairs or sentences"),
        ("--untrained text-head --sentences {pairs}", "--sentences and --untrained: the space is made of either"),
        ("--sentences {pairs} --names n.txt", "--sentences and --names: the space is made of either; omit one"),
    ],
)
def test_bad_input_is_one_line(vladapt, pairs, small_clip_spec, tmp_path, options, said):
    few, latin = pairs.with_name("few.csv"), pairs.with_name("latin.txt")
    few.write_text("\n".join(pairs.read_text().splitlines()[:8]))
    latin.write_bytes("Käse".encode("latin-1"))
    given = options.format(pairs=pairs, few=few, latin=latin).split()
    outcome = vladapt("join", "--image", small_clip_spec, "--text", small_clip_spec, "--out", tmp_path / "out", *given)
    assert outcome.code != 0 and said in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_too_few_pairs_are_told(vladapt, pairs, small_clip_spec, tmp_path):
    lines = pairs.read_text().splitlines()
    few = pairs.with_name("few.csv")
    few.write_text("\n".join([lines[0], *lines[1:8], lines[-1]]))
    base = ["join", "--image", small_clip_spec, "--text", small_clip_spec, "--out", tmp_path / "out", "--pairs"]
    for more in ([], ["--map", "procrustes"]):
        assert (
            "7 pairs are too few: the map and its logit scale are chosen on pairs that"
            in vladapt(*base, few, *more).err
        )


def test_sentences_and_their_translations_bring_another_text_tower_into_the_space(
    vladapt, small_clip, small_clip_spec, write_clip, tmp_path
):
    things, colours = ("cat", "dog", "car", "sea", "bus", "tree"), ("red", "green", "blue", "big", "old", "wet")
    lines = ["english,german,note"]
    lines += [f"a {colour} {thing},{colour} {thing},x" for colour in colours for thing in things]
    (tmp_path / "s.csv").write_text("\n".join(lines))
    base = ["join", "--image", small_clip_spec, "--text", write_clip(width=16), "--sentences", "s.csv", "--out"]
    outcome = vladapt(*base, "out")
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "fitted on 28 sentences and their translations" in said and "No image was seen" in said
    assert "Of 8 translations that were left out" in said and "(guessing: 12.5%)" in said
    from vladapt.core.backbones.load import load_backbone

    joined, pixels = load_backbone("out", "cpu"), torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(joined.encode_image(pixels), small_clip.encode_image(pixels), atol=1e-5)
        read = joined.encode_text([f"{colour} {thing}" for colour in colours for thing in things])
        own = small_clip.encode_text([f"a {colour} {thing}" for colour in colours for thing in things])
    nearest = (read @ own.T).argmax(dim=1)
    assert (nearest == torch.arange(36)).float().mean() > 0.5
    swapped = vladapt(*base, "other", "--translated", "german,english")
    assert (
        swapped.code == 0
        and (tmp_path / "other/space.safetensors").read_bytes() != (tmp_path / "out/space.safetensors").read_bytes()
    )


def test_a_readme_of_something_else_stays(vladapt, pairs, small_clip_spec, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    outcome = vladapt("join", "--image", small_clip_spec, "--text", small_clip_spec, "--pairs", pairs, "--out", ".")
    assert outcome.code == 2 and "holds a README.md of something else; give a new folder" in outcome.err
    assert (tmp_path / "README.md").read_text() == "mine"


def test_layers_that_a_training_learns(vladapt, small_clip_spec, write_clip, tmp_path):
    base = ["join", "--image", small_clip_spec, "--text", write_clip(width=16), "--untrained"]
    outcome = vladapt(*base, "projections", "--space-width", "10", "--out", "out")
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "layers that nothing has trained (projections)" in said and "Train it by `vladapt pretrain` as" in said
    assert "Train: `vladapt pretrain" in (tmp_path / "out/README.md").read_text()
    from vladapt.core.backbones.load import load_backbone

    made = load_backbone("out", "cpu")
    assert (made.embed_dim, made.space.settings["unit"], made.space.of_text.bias) == (10, False, None)
    assert float(made.logit_scale) == pytest.approx(1 / 0.07)
    weights = [(tmp_path / "out/space.safetensors").read_bytes()]
    for number, more in enumerate((["--seed", "2"], [])):
        assert vladapt(*base, "projections", "--space-width", "10", "--out", f"o{number}", *more).code == 0
        weights.append((tmp_path / f"o{number}/space.safetensors").read_bytes())
    assert weights[0] == weights[2] != weights[1]
