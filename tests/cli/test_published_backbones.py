"""Published models on the command line: the list, a licence said before fitting, towers of images alone, keys of
another backbone than the texts."""

from pathlib import Path

import pytest
import torch

from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.contracts.families import FAMILIES
from vladapt.core.runs.folder import Run


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> Path:
    """A small DINOv2 as it is published."""
    import transformers

    folder = tmp_path_factory.mktemp("dino")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14, mlp_ratio=2
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    return folder


def test_the_list_shows_families_and_all_facts_of_each_model(vladapt):
    lines = vladapt("list", "backbones").out.splitlines()
    assert [line.split()[0] for line in lines[: len(FAMILIES)]] == [
        family["spec"].split()[0] for family in FAMILIES.values()
    ]
    at = next(i for i, line in enumerate(lines) if line.startswith("dfn-vit-b-16:"))
    assert lines[at] == "dfn-vit-b-16: DFN-2B"
    facts, place = lines[at + 1], lines[at + 2]
    assert "apple/DFN2B-CLIP-ViT-B-16; width 512, 224 px, 149.6 M parameters" in facts
    assert "apple-amlr (NON-COMMERCIAL)" in facts and facts.endswith("all capabilities; for natural")
    assert place.strip() == "not in the local cache: hf download apple/DFN2B-CLIP-ViT-B-16"
    assert any("image tower only" in line for line in lines) and any("lacks trim;" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "has", "lacks"),
    [
        (("--domain", "medical"), "biomedclip", "remoteclip-rn50"),
        (("--domain", "remote_sensing"), "remoteclip-rn50", "biomedclip"),
        (("--domain", "open-vocab"), "openai-vit-b-32", "biomedclip"),
        (("--can", "prompt", "--domain", "medical"), "biomedclip", "rad-dino"),
    ],
)
def test_the_list_is_narrowed(vladapt, arguments, has, lacks):
    names = [row["name"] for row in vladapt("list", "backbones", *arguments, "--json").json["backbones"]]
    assert has in names and lacks not in names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("list", "backbones", "--domain", "medicl"), "no domain has that name; did you mean medical?"),
        (("list", "backbones", "--can", "prmpt"), "no tower has that capability; did you mean prompt?"),
        (("list", "adapters", "--can", "prompt"), "--can: for `list backbones` only"),
        (("show", "biomedcip"), "did you mean biomedclip"),
    ],
)
def test_a_wrong_word_is_one_line(vladapt, arguments, said):
    outcome = vladapt(*arguments)
    assert outcome.code == 2 and said in outcome.error


def test_a_model_is_shown_with_the_command_that_fetches_it(vladapt):
    shown = vladapt("show", "biomedclip", "--json").json
    assert shown["kind"] == "backbone" and shown["facts"]["licence"] == "MIT"
    assert shown["facts"]["in the local cache"] == "no"
    assert shown["facts"]["to fetch it"].startswith("hf download microsoft/BiomedCLIP")


def test_a_licence_that_forbids_commercial_use_is_said_before_fitting(fit, colours, dino, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in dino.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    outcome = fit("--data", colours, "--backbone", folder, "--adapter", "linear-probe")
    said = [line for line in outcome.err.splitlines() if "non-commercial" in line]
    assert said == [f"Backbone {folder}: its weights are under cc-by-nc-4.0, for non-commercial use only"]
    assert outcome.err.index("non-commercial") < outcome.err.index("Fitting linear-probe")


@pytest.mark.parametrize("adapter", ["linear-probe", "tip-adapter", "tip-adapter-f", "gda"])
def test_methods_without_texts_run_on_an_image_tower_alone(fit, vladapt, colours, dino, adapter):
    outcome = fit("--data", colours, "--backbone", dino, "--adapter", adapter, "--shots", 4, "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json["zero_shot"] is None and outcome.json["adapted"]["accuracy"] > 0.9
    run = Path(outcome.json["run"])
    assert Run.open(run).info["templates"] == []
    assert (run / "report.html").is_file() and "zero_shot" not in Run.open(run).metrics["baselines"]
    again = vladapt("eval", run, "--json").json
    assert again["adapted"]["accuracy"] == outcome.json["adapted"]["accuracy"]
    image = next((colours / "red").iterdir())
    assert vladapt("predict", run, image, "--json").json["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("adapter", ["zero-shot", "coop", "taskres", "ape", "lit"])
def test_methods_with_texts_say_in_one_line_what_an_image_tower_lacks(fit, refused, colours, dino, adapter):
    outcome = fit("--data", colours, "--backbone", dino, "--adapter", adapter)
    refused(outcome, 1, f"adapter '{adapter}' learns from class texts", "has an image tower only", "linear-probe")


def test_an_image_tower_alone_is_compared_without_zero_shot(vladapt, colours, dino):
    outcome = vladapt(
        *("compare", "--domain", "medical", "--data", colours, "--backbone", dino, "--shots", "2", "--seeds", "1"),
        *("--adapters", "linear-probe,tip-adapter", "--splits", "1", "--json"),
    )
    assert outcome.code == 0, outcome.err
    assert {row["adapter"] for row in outcome.json["rows"]} == {"linear-probe", "tip-adapter", "largest-class"}


def test_keys_of_one_backbone_and_texts_of_another(fit, vladapt, colours, dino, small_clip_spec):
    arguments = ("--data", colours, "--adapter", "tip-adapter", "--shots", 4, "--set", "adapter.beta=5", "--set")
    keyed = fit(*arguments, "adapter.alpha=1", "--resource", f"keys={dino}", "--json")
    assert keyed.code == 0, keyed.err
    run = Path(keyed.json["run"])
    header, tensors = read_adapter_file(run / "adapter.safetensors")
    assert header["scalars"]["keyed"] is True
    assert tensors["keys"].shape[1] == 32 and tensors["text"].shape[1] == 24
    assert f"Cache keys are features of backbone {dino}." in Run.open(run).info["notes"]
    plain = fit(*arguments, "adapter.alpha=1", "--json").json
    assert plain["zero_shot"] == keyed.json["zero_shot"]
    again = vladapt("eval", run, "--json").json
    assert again["adapted"]["accuracy"] == keyed.json["adapted"]["accuracy"]

    image = next((colours / "blue").iterdir())
    row = vladapt("predict", run, image, "--json").json["predictions"][0]
    clip, keys = load_backbone(small_clip_spec, "cpu"), load_backbone(str(dino), "cpu")
    from PIL import Image

    with Image.open(image) as picture, torch.no_grad():
        query = keys.encode_image(keys.preprocess()(picture)[None])
        text = clip.encode_image(clip.preprocess()(picture)[None]) @ tensors["text"].T
    scale = header["scalars"]["logit_scale"]
    cache = torch.exp(-5 * (1 - query @ tensors["keys"].T)) @ tensors["values"]
    expected = scale * text + scale / 100 * cache
    assert row["label"] == header["class_names"][int(expected.argmax())]


@pytest.mark.parametrize("adapter", ["proker", "tip-adapter-f"])
def test_a_cache_of_another_backbone_is_tested_and_used_again(fit, vladapt, colours, dino, adapter):
    keyed = fit("--data", colours, "--adapter", adapter, "--shots", 4, "--resource", f"keys={dino}", "--json")
    assert keyed.code == 0, keyed.err
    run = Path(keyed.json["run"])
    header, tensors = read_adapter_file(run / "adapter.safetensors")
    learned = tensors["keys" if adapter == "tip-adapter-f" else "rows"]
    assert learned.shape == (12, 32) and tensors["text"].shape[1] == 24 and header["scalars"]["keyed"] is True
    assert f"Cache keys are features of backbone {dino}." in Run.open(run).info["notes"]
    again = vladapt("eval", run, "--json").json
    assert again["adapted"]["accuracy"] == keyed.json["adapted"]["accuracy"]
    assert vladapt("predict", run, next((colours / "red").iterdir()), "--json").code == 0


def test_keys_are_refused_where_no_method_has_a_cache(fit, refused, colours, dino):
    outcome = fit("--data", colours, "--adapter", "linear-probe", "--resource", f"keys={dino}")
    takers = "proker, tip-adapter or tip-adapter-f"
    refused(outcome, 2, f"--resource keys: linear-probe does not use it; omit it, or take {takers}")
    wrong = fit("--data", colours, "--adapter", "tip-adapter", "--resource", "keys=dinov9")
    refused(wrong, 2, "unknown backbone 'dinov9'; did you mean dinov3, dinov2 or")


def test_a_features_file_of_an_image_tower_alone_says_that_it_has_no_texts(vladapt, colours, dino, tmp_path):
    file = tmp_path / "features.safetensors"
    made = vladapt("embed", "--domain", "medical", "--data", colours, "--backbone", dino, "--out", file)
    assert made.code == 0, made.err
    fitted = vladapt("fit", "--features", file, "--adapter", "linear-probe", "--shots", 2, "--json")
    assert fitted.json["zero_shot"] is None and fitted.json["adapted"]["accuracy"] > 0.9
    refused = vladapt("fit", "--features", file, "--adapter", "taskres", "--shots", 2)
    assert refused.code == 1 and "have none, because they come from an image tower alone" in refused.error
