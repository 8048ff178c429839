"""Wrong names, missing places and missing packages are told before torch is imported, which takes a second."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from vladapt.core.backbones import packaged
from vladapt.core.contracts.families import FAMILIES

TOLD = """
import importlib.metadata, io, json, sys
from contextlib import redirect_stderr
from vladapt.cli import main
told, hidden, version_of = [], {}, importlib.metadata.version

def version(name):
    if name in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return version_of(name)

importlib.metadata.version = version
for missing, arguments in json.loads(sys.argv[1]):
    with redirect_stderr(io.StringIO()) as err:
        hidden = {missing: sys.modules.get(missing)} if missing else {}
        sys.modules.update(dict.fromkeys(hidden))
        try:
            main(arguments)
        except SystemExit as ended:
            told.append([ended.code, err.getvalue()])
        for name in hidden:
            del sys.modules[name]
print(json.dumps([told, sorted({"torch", "mmengine", "matplotlib", "sklearn"} & set(sys.modules))]))
"""
CASES = (
    ("", "fit --data nowhere", 1, "--data nowhere: no such file or folder; give the path of a data set, or 'sample'"),
    (
        "",
        "fit --domain person --data nowhere",
        1,
        "--data nowhere: no such file or folder; give the path of a data set",
    ),
    ("", "fit nowhere", 1, "--data nowhere: no such file or folder; give the path of a data set, or 'sample'"),
    ("", "fit photos --data others", 2, "photos and --data: give one of them"),
    ("", "fit photos --features others.npz", 2, "photos and --features: give one of them"),
    ("", "fit . --follow-links nowhere", 2, "--follow-links nowhere: no such folder; give the folder that the links"),
    ("", "compare photos --data others", 2, "photos and --data: give one of them"),
    ("", "fit --features nowhere.npz", 1, "nowhere.npz: no such file; give a .safetensors or .npz file of features"),
    ("", "fit --config nowhere.py", 2, "--config nowhere.py: no such file; give a recipe file (.py, .json or .yaml)"),
    ("", "fit --domain medicl", 2, "unknown domain 'medicl'; did you mean medical?"),
    ("", "fit --adapter gdaa", 2, "unknown adapter 'gdaa'; did you mean gda"),
    ("", "fit --domain medical --task moments", 2, "--task moments: domain 'medical' has classification"),
    ("", "fit --task retrieva", 2, "unknown task 'retrieva'; did you mean retrieval"),
    ("", "fit --recipe medical/chest", 2, "unknown recipe 'medical/chest'; did you mean medical/chest-xray"),
    (
        "",
        "fit --backbone zzzzzzz:bar",
        2,
        "unknown backbone 'zzzzzzz:bar'; there are: embedded, hf, join, module, open_clip, projected, stored, tiles",
    ),
    ("", "fit --backbone openai-vit-b-17", 2, "unknown backbone 'openai-vit-b-17'; did you mean openai-vit-b-16"),
    ("", "fit --protocol coopp", 2, "--protocol coopp: no such protocol; did you mean coop?"),
    ("", "fit --out here", 2, "--out here: a file, not a folder; give the folder that is to hold the run"),
    ("", f"fit --out {'x' * 300}", 1, "cannot be written there (File name too long); give another --out"),
    ("", "fit --task=", 2, "--task: the value is empty; give one, or omit the option"),
    ("", "eval nowhere --out here", 2, "--out here: a file, not a folder; give the folder that is to hold the eval"),
    ("", "compare --adapters gdaa,ape", 2, "unknown adapter 'gdaa'; did you mean gda"),
    ("", "compare --adapters ape --protocol coopp", 2, "--protocol coopp: no such protocol; did you mean coop?"),
    ("", "compare --adapters ape --backbones embedded,openai-vit-b-17", 2, "unknown backbone 'openai-vit-b-17'; did"),
    ("", "compare --adapters ape --data sample --data nowhere", 1, "--data nowhere: no such file or folder"),
    ("", "compare --adapters ape --features nowhere.npz", 1, "nowhere.npz: no such file; give a .safetensors or .npz"),
    (
        "peft",
        "fit --adapter lora",
        1,
        "adapter 'lora' needs the package 'peft'; install it with: pip install 'vladapt[fine-tune]'",
    ),
    ("", "predict nowhere x.png", 1, "nowhere: no such run folder; give one that `vladapt fit` wrote"),
    ("", "eval nowhere", 1, "nowhere: no such run folder; give one that `vladapt fit` wrote"),
    (
        "transformers",
        "fit --backbone hf:owner/name",
        1,
        "backbone 'hf:owner/name' needs the package 'transformers'; install it with: pip install 'vladapt[hf]'",
    ),
    ("open_clip", "fit --backbone openai-vit-b-16", 1, "needs the package 'open_clip'; install it with: pip install"),
    (
        "mmseg",
        "fit --domain remote-sensing --task change",
        1,
        "task 'change' needs the package 'mmseg'; install it with: pip install 'vladapt[open-vocab]'",
    ),
    ("mmseg", "fit --domain remote-sensing --task pixel-regression", 1, "task 'pixel-regression' needs the package"),
    ("mmdet", "fit --domain open-vocab", 1, "detection and segmentation need mmdet and mmseg: no mmdet"),
)
"""Module that is not installed, command, exit code, what is told."""


def test_errors_that_need_no_torch_are_told_without_it(tmp_path):
    (tmp_path / "here").touch()
    commands = [[missing, words.split()] for missing, words, *_ in CASES]
    command = (sys.executable, "-c", TOLD, json.dumps(commands))
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=os.environ)
    assert done.returncode == 0, done.stderr
    told, imported = json.loads(done.stdout.splitlines()[-1])
    for (_, words, code, wanted), (ended, err) in zip(CASES, told, strict=True):
        assert (ended, wanted in err) == (code, True), f"{words}: {err}"
    assert not imported


@pytest.mark.parametrize("words", [case[1] for case in CASES if case[0] == "" and case[1].startswith("fit --d")])
def test_a_fit_that_is_called_from_python_tells_the_same(words, monkeypatch, tmp_path):
    import vladapt

    monkeypatch.chdir(tmp_path)
    flags = dict(zip(words.split()[1::2], words.split()[2::2]))
    wanted = next(case[3] for case in CASES if case[1] == words)
    with pytest.raises(vladapt.VladaptError) as caught:
        vladapt.fit(**{flag.removeprefix("--"): value for flag, value in flags.items()})
    assert wanted in str(caught.value)


def test_the_default_backbone_names_all_packages_that_it_reads():
    read = {packaged.WEIGHTS.package, packaged.TEXT_WEIGHTS.package, "efficientnet_lite_pytorch", "tokenizers"}
    assert set(FAMILIES["embedded"]["packages"]) == read
