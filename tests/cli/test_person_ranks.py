"""A whole training of person search by two processes is that of one."""

import json
import os
from pathlib import Path

import pytest
import torch
from forked import run_ranks
from PIL import Image
from safetensors.torch import load_file

from vladapt.domains.person.drawn_pedestrians import drawn_pedestrians

HOW = "--epochs 1 --lr 1e-4 --set adapter.batch_size=8 --set sampler=random-identity --set pictures=2"
HOW += " --set image_size=32x16 --set adapter.loss=irra --set adapter.loss_options.irra.depth=1"


def test_two_processes_learn_to_search_people_as_one(vladapt, small_clip_spec, tmp_path):
    data, rows = drawn_pedestrians(9, 2, 2, size=(32, 16), val=2, test=3, captions=1), []
    for number, item in enumerate(data.items):
        Image.fromarray(data.load(item)).save(tmp_path / f"{number}.png")
        who = {"identity": item.target.identity, "split": item.split, "captions": list(item.target.texts)}
        rows.append({"image": f"{number}.png", **who})
    for name in "ab":  # what is forgotten, of two pictures in place of 150
        (tmp_path / "generic" / name).mkdir(parents=True)
        Image.fromarray(data.load(data.items[0])).save(tmp_path / "generic" / name / "0.png")
    (tmp_path / "people.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = ["fit", "--domain", "person", "--task", "person-search", "--data", str(tmp_path / "people.jsonl")]
    command += ["--backbone", small_clip_spec, "--device", "cpu", "--adapter", "full", *HOW.split(), "--json"]
    command += ["--generic", str(tmp_path / "generic")]
    alone = vladapt(*command, "--out", "one")
    assert alone.code == 0, alone.err
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "VLADAPT_CACHE": str(tmp_path / "cache")}
    first, second = run_ranks(["-m", "vladapt", *command, "--out", "two"], env=environment, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr
    together = json.loads(first.stdout)
    assert second.stdout == "" and together["adapted"] == pytest.approx(alone.json["adapted"], abs=1e-6)
    one, two = (load_file(Path(tmp_path, made["run"], "adapter.safetensors")) for made in (alone.json, together))
    assert one.keys() == two.keys() and any("mlp" in name for name in one)
    for name in one:
        if not name.endswith("in_proj_bias"):  # of keys: its gradient is rounding, of which AdamW makes whole steps
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=2e-5, msg=name)
