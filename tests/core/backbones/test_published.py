"""The table of published models, and what is said where a published model cannot be had."""

import json
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import pytest

from vladapt.core.backbones import ModelFolder
from vladapt.core.backbones.load import announce_terms, load_backbone
from vladapt.core.backbones.open_clip import image_capabilities, text_capabilities
from vladapt.core.backbones.specs import TABLE, find_published, licence_line, models_folder, published
from vladapt.core.contracts.families import FAMILIES
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError

FAMILIES_ASKED_FOR = {
    *("openai", "laion", "datacomp", "dfn", "metaclip", "eva02", "siglip", "siglip2", "pe", "mobileclip", "vitamin"),
    *("chinese", "altclip", "biomedclip", "pubmedclip", "medsiglip", "plip", "quiltnet", "remoteclip", "georsclip"),
    *("skyclip", "rs", "dinov2", "dinov3", "rad"),
}


def test_one_line_per_model_and_one_model_per_line():
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    assert (lines[0], lines[-1]) == ("[", "]")
    assert [json.loads(line.rstrip(","))["alias"] for line in lines[1:-1]] == [entry.alias for entry in published()]
    aliases = [entry.alias for entry in published()]
    assert len(set(aliases)) == len(aliases) and not set(aliases) & set(FAMILIES)
    assert {alias.partition("-")[0] for alias in aliases} >= FAMILIES_ASKED_FOR


@pytest.mark.parametrize("entry", published(), ids=lambda entry: entry.alias)
def test_a_line_says_what_the_code_would_build(entry):
    """Of open_clip's registered models, the table is what its registry and our towers say."""
    import open_clip

    assert entry.domains and entry.trained_on and entry.parameters > 1
    assert (licence_line(entry.licence, entry.alias) is not None) == entry.non_commercial
    assert entry.id.count("/") == 1 or entry.url
    name, _, tag = entry.spec.removeprefix("open_clip:").partition("@" if "@" in entry.spec else "/")
    if entry.family != "open_clip" or name not in open_clip.list_models():
        return
    config = open_clip.get_model_config(name)
    assert (config["embed_dim"], config["vision_cfg"].get("image_size", 224)) == (entry.width, entry.size)
    if "@" not in entry.spec:
        assert open_clip.get_pretrained_cfg(name, tag)["hf_hub"].split("/")[:2] == entry.id.split("/")
    can = image_capabilities(config["vision_cfg"])
    can |= frozenset({"prompt", "text_blocks", "trim"}) if "hf_model_name" in config["text_cfg"] else frozenset()
    assert can | text_capabilities(config) == entry.can


def test_an_alias_loads_what_it_stands_for(hub):
    snapshot = hub("chendelong/RemoteCLIP", {"RemoteCLIP-ViT-B-32.pt": b"no weights"})
    backbone = load_backbone("RemoteCLIP-ViT-B-32", "cpu")
    assert backbone.source.weights == snapshot / "RemoteCLIP-ViT-B-32.pt"
    assert (backbone.spec, backbone.embed_dim, backbone.notes) == ("RemoteCLIP-ViT-B-32", 512, [])
    quick = hub("Zilun/GeoRSCLIP", {"ckpt/RS5M_ViT-B-32.pt": b"no weights"})
    backbone = load_backbone("georsclip-vit-b-32", "cpu")
    assert backbone.source.weights == quick / "ckpt" / "RS5M_ViT-B-32.pt"
    assert backbone.source.config["quick_gelu"] is True and backbone.licence == "cc"


def test_whether_a_model_lies_here_is_told_without_loading_it(hub):
    entry = find_published("biomedclip")
    assert not entry.is_cached()
    hub(entry.id, {"open_clip_config.json": b"{}", "open_clip_pytorch_model.bin": b""})
    assert not entry.is_cached()  # the configuration of its text tower is still missing
    hub("microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract", {"config.json": b"{}"})
    assert entry.is_cached() and entry.to_dict()["cached"] is True
    other = find_published("dinov2")
    hub(other.id, {"config.json": b"{}"})
    assert not other.is_cached()
    hub(other.id, {"model.safetensors": b""})
    assert other.is_cached()


def test_openais_archive_in_open_clips_own_cache_is_taken_if_it_is_the_released_one(hub, monkeypatch, tmp_path):
    entry = find_published("openai-vit-b-32")
    archive = tmp_path / ".cache" / "clip" / "ViT-B-32.pt"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"another file")
    assert entry.is_cached()
    with pytest.raises(DataError, match="is not in the hub's cache"):
        load_backbone("openai-vit-b-32", "cpu")  # of another sha256
    released = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
    monkeypatch.setattr("vladapt.core.backbones.open_clip_source.file_digests", lambda files: [released])
    backbone = load_backbone("openai-vit-b-32", "cpu")
    assert backbone.source.weights == archive and backbone.source.config["quick_gelu"] is True


def test_a_model_whose_text_tower_needs_transformers_says_so(hub, monkeypatch, small):
    import sys

    config = small.open_clip_config(text={"hf_model_name": "someone/bert", "hf_tokenizer_name": "someone/bert"})
    stated = json.dumps({"model_cfg": config}).encode()
    hub("someone/biomed", {"open_clip_config.json": stated, "open_clip_model.safetensors": b""})
    hub("someone/bert", {"config.json": b'{"model_type": "bert"}'})
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        CapabilityError, match=r"the text tower of .* needs the package 'transformers'; .*vladapt\[hf\]"
    ):
        load_backbone("open_clip:hf-hub:someone/biomed", "cpu")


def test_a_model_that_is_not_on_the_hub_names_the_command(hub, monkeypatch, tmp_path):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "ours"))
    with pytest.raises(DataError, match=r"not on the hub; bring it here with: curl -LO https://.*B32.*unzip .*/models"):
        load_backbone("skyclip-vit-b-32", "cpu")
    place = models_folder() / "SkyCLIP_ViT_B32_top50pct"
    place.mkdir(parents=True)
    (place / "epoch_20.pt").write_bytes(b"no weights")
    assert load_backbone("skyclip-vit-b-32", "cpu").source.weights == place / "epoch_20.pt"


def test_an_alias_that_is_not_here_names_all_that_it_needs(hub):
    with pytest.raises(DataError) as caught:
        load_backbone("biomedclip", "cpu")
    said = str(caught.value)
    assert "does not answer" in said and said.endswith(find_published("biomedclip").fetch_command())


@pytest.mark.parametrize(
    ("name", "near"), [("biomedcip", "biomedclip"), ("openai-vit-b32", "openai-vit-b-32"), ("dino-v2", "dinov2")]
)
def test_a_misspelt_alias_is_answered_with_the_nearest(name, near):
    with pytest.raises(UnknownNameError, match=rf"unknown backbone '{name}'; did you mean .*{near}"):
        load_backbone(name)


@pytest.mark.parametrize(
    ("licence", "forbids"),
    [
        *((name, True) for name in ("CC-BY-NC-4.0", "cc-by-nc-sa-4.0", "apple-amlr", "research-only")),
        *((name, False) for name in ("MIT", "apache-2.0", "unknown", "cc-by-4.0", "openrail", "dinov3-license")),
    ],
)
def test_licences_that_forbid_commercial_use_are_known_by_name(licence, forbids):
    line = licence_line(licence, "dfn-vit-b-16")
    assert (line is not None) == forbids
    assert line is None or (licence in line and "non-commercial" in line and "\n" not in line)


@pytest.mark.parametrize(
    ("head", "licence"),
    [
        ("license: mit", "mit"),
        ('license: "cc-by-nc-4.0"', "cc-by-nc-4.0"),
        ("license: 'apache-2.0'  # as before", "apache-2.0"),
        ('license: other\nlicense_name: "a-b"', "a-b"),
        ("license:\n- mit", "unknown"),
    ],
)
def test_the_licence_of_a_card_is_read_quoted_or_not(tmp_path, head, licence):
    (tmp_path / "README.md").write_text(f"---\n{head}\ntags: []\n---\n# A model\n", encoding="utf-8")
    assert ModelFolder(tmp_path).licence == licence


@pytest.fixture
def remote(hub, monkeypatch):
    """A repository of a hub that answers, given as file names with their content; the names of what was fetched."""
    import huggingface_hub

    from vladapt.core.backbones import hub as module

    files, fetched = {}, []

    def download(repo, revision=None, allow_patterns=(), ignore_patterns=None):
        wanted = {name: files[name] for name in files if any(fnmatch(name, each) for each in allow_patterns)}
        fetched.extend(wanted)
        return str(hub(repo, wanted))

    class Api:
        def model_info(self, repo, revision=None):
            siblings = [SimpleNamespace(rfilename=name) for name in files]
            return SimpleNamespace(gated=False, card_data=None, siblings=siblings)

    monkeypatch.setattr(module, "require_hub", lambda *_: None)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return SimpleNamespace(files=files, fetched=fetched)


SHARDS = {
    "config.json": b"{}",
    "model.safetensors.index.json": b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
    "model-1.safetensors": b"1",
    "model-2.safetensors": b"2",
}


@pytest.mark.parametrize("lacking", ["model-2.safetensors", "preprocessor_config.json"])
def test_what_a_cached_folder_lacks_is_fetched(hub, remote, lacking):
    remote.files.update(SHARDS, **{"preprocessor_config.json": b"{}"})
    hub("someone/model", {name: content for name, content in remote.files.items() if name != lacking})
    folder = ModelFolder.of_hub("someone/model", "go", needs=lambda _: [("preprocessor_config.json",)]).path
    assert (folder / lacking).is_file() and lacking in remote.fetched


def test_a_whole_cached_folder_asks_for_nothing(hub, remote):
    cached = hub("someone/model", SHARDS)
    assert ModelFolder.of_hub("someone/model", "go", needs=lambda _: [("config.json", "other.json")]).path == cached
    assert not remote.fetched


def test_without_a_network_one_shard_of_two_is_refused_and_whole_weights_are_left_to_the_reader(hub):
    cached = hub("someone/whole", SHARDS)
    assert ModelFolder.of_hub("someone/whole", "go", needs=lambda _: [("preprocessor_config.json",)]).path == cached
    hub("someone/half", {name: content for name, content in SHARDS.items() if name != "model-2.safetensors"})
    with pytest.raises(DataError, match=r"'someone/half' is not in the hub's cache"):
        ModelFolder.of_hub("someone/half", "go")


def test_weights_that_would_be_of_no_use_are_not_downloaded(remote):
    def refuses(folder):
        raise DataError(f"{(folder / 'config.json').read_text()} is not supported")

    remote.files.update(SHARDS)
    with pytest.raises(DataError, match=r"\{\} is not supported"):
        ModelFolder.of_hub("someone/model", "go", needs=refuses)
    with pytest.raises(DataError, match=r"'someone/model' has none of tokenizer\.json, vocab\.txt; go"):
        ModelFolder.of_hub("someone/model", "go", needs=lambda _: [("config.json",), ("tokenizer.json", "vocab.txt")])
    assert not [name for name in remote.fetched if name.endswith(".safetensors")]


class _Hub(BaseHTTPRequestHandler):
    """A hub that knows one gated repository."""

    def do_HEAD(self):
        self._answer()

    def do_GET(self):
        self._answer()

    def _answer(self):
        if self.path.count("/") < 2:
            self.send_response(200)
        elif "gated" in self.path:
            self.send_response(403)
            self.send_header("X-Error-Code", "GatedRepo")
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def answering(hub, monkeypatch):
    """A hub that answers, in this process."""
    from huggingface_hub import constants

    server = HTTPServer(("127.0.0.1", 0), _Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", place)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", place + "/{repo_id}/resolve/{revision}/{filename}")
    yield hub
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (
            "open_clip:hf-hub:someone/gated",
            "'someone/gated' is gated: accept its terms at https://huggingface.co/someone",
        ),
        ("open_clip:hf-hub:someone/nothing", "the hub has no repository 'someone/nothing', or it is private"),
        ("open_clip:ViT-B-32@hf-hub:someone/gated/w.pt", "'someone/gated' is gated"),
        ("hf:someone/nothing", "the hub has no repository 'someone/nothing'"),
        ("hf:someone/gated", "'someone/gated' is gated: .*hf auth login"),
    ],
)
def test_a_gated_and_an_unknown_repository_are_one_line(answering, spec, said):
    with pytest.raises(DataError, match=said):
        load_backbone(spec, "cpu")


@pytest.mark.parametrize(
    ("spec", "error", "said"),
    [
        ("open_clip:hf-hub:someone", ConfigError, "'someone' is not a repository of the hub"),
        ("open_clip:hf-hub:a/b/c.pt", ConfigError, "give open_clip:<arch>@hf-hub:a/b/c.pt"),
        ("open_clip:ViT-B-32@hf-hub:a/b", ConfigError, "is not a file; give hf-hub:<owner>/<name>/<file>"),
        ("open_clip:hf-hub:a/b", DataError, "'a/b' is not in the hub's cache .* hf download a/b"),
        ("open_clip:local-dir:/no/where", DataError, "/no/where: no such folder"),
    ],
)
def test_an_id_of_another_form_or_not_here_is_one_line(hub, spec, error, said):
    with pytest.raises(error, match=said):
        load_backbone(spec, "cpu")


def test_half_a_folder_says_which_half_is_missing(small, open_clip_vit, tmp_path, hf_folder):
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "open_clip_model.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match=r"a folder without open_clip_config\.json"):
        load_backbone(f"open_clip:{weights}", "cpu")
    config = tmp_path / "config"
    config.mkdir()
    (config / "open_clip_config.json").write_text(json.dumps({"model_cfg": small.open_clip_config()}))
    with pytest.raises(DataError, match=r"has open_clip_config\.json but no weights; add open_clip_model\.safetensors"):
        load_backbone(str(config), "cpu")
    for name in ("epoch_1.pt", "epoch_2.pt"):
        (config / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"2 files of weights .*give open_clip:.*open_clip_config\.json@<one of them>"):
        load_backbone(f"open_clip:{config}", "cpu")
    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "config.json").write_bytes((hf_folder("clip") / "config.json").read_bytes())
    with pytest.raises(DataError, match="has no weights"):
        load_backbone(str(hf), "cpu")


def test_a_folder_of_transformers_is_known_by_itself(hf_folder):
    folder = hf_folder("siglip")
    assert load_backbone(str(folder), "cpu").fingerprint == load_backbone(f"hf:{folder}", "cpu").fingerprint


@pytest.mark.parametrize("spec", ["~nobody-of-this-name/model", "x" * 5000, "null\0byte", "open_clip:" + "y" * 5000])
def test_what_can_be_no_path_is_an_unknown_name(spec):
    with pytest.raises(UnknownNameError):
        load_backbone(spec)


def test_a_text_tower_that_states_no_padding_has_transformers_own(small, tmp_path, hub):
    import transformers

    for kind, padding in (("bert", 0), ("xlm-roberta", 1)):
        folder = tmp_path / kind
        (folder / "text_model").mkdir(parents=True)
        (folder / "text_model" / "config.json").write_text(json.dumps({"model_type": kind}))
        config = small.open_clip_config(text={"hf_model_name": "someone/text"})
        (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        (folder / "open_clip_model.safetensors").write_bytes(b"")
        assert load_backbone(str(folder), "cpu").text_model["pad_token_id"] == padding
        assert transformers.AutoConfig.for_model(kind).pad_token_id == padding


def test_terms_are_told_before_a_model_is_downloaded_and_not_of_one_that_lies_here(hub):
    told = []
    announce_terms("virchow2#merge=4", told.append)
    assert told == [
        "Backbone virchow2#merge=4: its weights are under CC-BY-NC-ND-4.0, for non-commercial use only; its terms are "
        "to be accepted at https://huggingface.co/paige-ai/Virchow2 first"
    ]
    announce_terms("timm:hf-hub:bioptimus/H-optimus-0", told.append)
    assert "under Apache-2.0; its terms are to be accepted" in told[1]
    hub("paige-ai/Virchow2", {"model.safetensors": b"", "config.json": b"{}"})
    for spec in ("virchow2", "embedded", "quiltnet-b-32", "timm:vit_tiny_patch16_224"):
        announce_terms(spec, told.append)
    assert len(told) == 2
