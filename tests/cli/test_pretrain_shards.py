"""`vladapt pretrain` on shards that are read in a row: from a disk, S3 and plain HTTP, stopped and gone on with."""

from __future__ import annotations

import functools
import http.server
import json
import signal
import threading

import pytest
import torch
from forked import run, run_ranks
from PIL import Image
from safetensors.torch import load_file
from tar_shards import png, shard

SPLIT = ["--set", "data.val_samples=8", "--set", "data.test_samples=8", "--set", "data.streams=4"]
KILLED = """
import os, signal, sys
from vladapt.core.training import resume

save = resume.ResumeHook.after_train_iter

def save_and_die(self, runner, *rest, **named):
    save(self, runner, *rest, **named)
    if runner.iter + 1 == 5:
        os.kill(os.getpid(), signal.SIGKILL)

resume.ResumeHook.after_train_iter = save_and_die
from vladapt.cli import main
main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three shards of 28 samples: 68 to train on, in 4 steps of 16."""
    place = tmp_path_factory.mktemp("shards")
    for i in range(3):
        members = {}
        for number in range(28 * i, 28 * i + 28):
            members |= {f"{number:04d}.png": png(3 * number), f"{number:04d}.txt": f"picture number {number}"}
        shard(place / f"{i:03d}.tar", members)
    return place


@pytest.fixture(scope="module")
def generic(tmp_path_factory):
    place = tmp_path_factory.mktemp("generic")
    for name, colour in (("apple", (200, 30, 30)), ("sky", (120, 170, 240))):
        (place / name).mkdir()
        Image.new("RGB", (16, 16), colour).save(place / name / "0.png")
    return place


@pytest.fixture
def command(small_clip_spec, generic):
    def made(data, out, *more) -> list[str]:
        fixed = ["--epochs", 2, "--batch-size", 16, "--lr", 1e-3, "--seed", 3, "--device", "cpu", *SPLIT]
        places = ["--data", data, "--backbone", small_clip_spec, "--generic", generic, "--out", out]
        return ["pretrain", *map(str, [*places, *fixed, *more])]

    return made


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_same(one, other, tolerance=0.0):
    a, b = weights(one), weights(other)
    assert max(float((a[name] - b[name]).abs().max()) for name in a) <= tolerance


@pytest.fixture
def web(folder):
    """The address of a plain HTTP server of the shards."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Nothing."""

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{running.server_port}"
    running.shutdown()
    running.server_close()


@pytest.mark.thorough
def test_the_same_shards_make_the_same_model_wherever_they_lie(vladapt, command, folder, web, s3_server, tmp_path):
    """And no password comes into what is printed and written."""
    s3_server.mkdir("sets")
    s3_server.put(f"{folder}/*.tar", "sets/pictures/")
    places = {
        "disk": (f"{folder}/{{000..002}}.tar", "--set", "data.order=shards"),
        "s3": ("s3://sets/pictures/{000..002}.tar",),
        "listed": ("s3://sets/pictures/*.tar", "--workers", "2"),
        "http": (f"http://me:hush@{web}/{{000..002}}.tar?token=hush", "--workers", "0"),
    }
    for name, (data, *more) in places.items():
        done = vladapt(*command(data, tmp_path / name, *more))
        assert done.code == 0, done.err
        assert "Order: by shard. 3 shards with 68 samples are read in sequence by 4 streams" in done.err
        assert "an epoch leaves 4 samples out" in done.err and "Val: 8 samples of" in done.out
        assert_same(tmp_path / "disk", tmp_path / name)
        written = (path.read_bytes() for path in (tmp_path / name).iterdir() if path.is_file())
        assert "hush" not in done.out + done.err and not any(b"hush" in content for content in written)
    info = json.loads((tmp_path / "http" / "run.json").read_text())["data"]
    assert info["path"] == f"http://{web}/{{000..002}}.tar" and info["splits"] == {"train": 68, "val": 8, "test": 8}
    s3_server.rm("sets", recursive=True)


def test_a_killed_run_goes_on_and_two_processes_make_the_model_of_one(vladapt, command, folder, tmp_path):
    more = ["--set", "data.order=shards", "--set", "save_every=1", "--workers", "2"]
    whole = run(["-m", "vladapt", *command(folder, tmp_path / "whole", *more)])
    assert whole.returncode == 0, whole.stderr
    killed = run(["-c", KILLED, *command(folder, tmp_path / "killed", *more)])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = vladapt(*command(folder, tmp_path / "killed", *more, "--resume"))
    assert resumed.code == 0 and "Resumed at step 5 of 8" in resumed.err, resumed.err
    assert_same(tmp_path / "whole", tmp_path / "killed")
    for done in run_ranks(["-m", "vladapt", *command(folder, tmp_path / "two", *more)]):
        assert done.returncode == 0, done.stderr
    assert_same(tmp_path / "whole", tmp_path / "two", 2e-3)  # Adam's first steps are signs of small gradients


def test_another_set_of_shards_is_not_gone_on_with(vladapt, command, folder, tmp_path):
    more = ["--set", "data.order=shards", "--set", "save_every=1", "--workers", "0"]
    killed = run(["-c", KILLED, *command(folder, tmp_path / "run", *more)])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    resumed = vladapt(*command(f"{folder}/{{000..001}}.tar", tmp_path / "run", *more, "--resume"))
    assert resumed.code == 1 and "from a run with samples=68, this one has" in resumed.err.splitlines()[-1]


def test_a_small_set_says_that_its_order_is_global(vladapt, command, folder, tmp_path):
    plain = [part for part in command(folder, tmp_path / "model") if part not in SPLIT]
    done = vladapt(*plain)
    assert done.code == 0, done.err
    assert "Order: global. Each epoch shuffles all 68 pairs to train on" in done.err


def test_a_shard_cut_short_is_told_with_its_name_and_the_rest_trained_on(vladapt, command, folder, tmp_path):
    """Its samples count as unreadable; 5 % of them stop the run."""
    cut = tmp_path / "cut"
    cut.mkdir()
    for path in folder.glob("*.tar"):
        (cut / path.name).write_bytes(path.read_bytes())
    (cut / "sizes.json").write_text(json.dumps({f"{i:03d}.tar": 28 for i in range(3)}))
    whole = (cut / "002.tar").read_bytes()
    more = ["--set", "data.order=shards", "--workers", "0"]
    (cut / "002.tar").write_bytes(whole[: 2048 * 26])
    done = vladapt(*command(cut, tmp_path / "few", *more))
    assert done.code == 0, done.err
    told = (tmp_path / "few" / "run.json").read_text()
    assert "002.tar:" in done.out and "002.tar: ends before sample 27" in told
    (cut / "002.tar").write_bytes(whole[: 2048 * 10 + 700])
    done = vladapt(*command(cut, tmp_path / "many", *more))
    assert done.code == 1
    assert "training samples cannot be read, more than 5 %" in done.err.splitlines()[-1]
    assert "cut short or damaged" in done.err.splitlines()[-1]
    done = vladapt(*command(cut, tmp_path / "many", *more, "--resume", "--tolerate", "0.5"))
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("data", "more", "line"),
    [
        ("s3://none/{000..002}.tar", [], "s3://none/000.tar: no such file or bucket; restore it, or leave it out"),
        ("pipe://cat", [], "pipe://cat: pipe:// is not supported; give a path, or a URL of s3://"),
        ("s3://a/a.tar", ["--set", "data.val=0.2"], "val does not apply to shards that are read in sequence; give"),
        ("pairs.csv", ["--set", "data.order=shards"], "order=shards: pairs.csv has no tar shards; omit it"),
        ("sample", [], "option streams is for shards that are read in sequence; omit it, or add order=shards"),
    ],
)
def test_what_cannot_be_read_is_one_line(vladapt, command, s3_server, tmp_path, data, more, line):
    done = vladapt(*command(data, tmp_path / "model", *more))
    assert done.code in (1, 2) and line in done.err.splitlines()[-1], done.err
