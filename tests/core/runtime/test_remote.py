"""Files by URL: a server of plain HTTP, one that breaks off, an S3 server, and what is said where none answers."""

from __future__ import annotations

import contextlib
import functools
import http.server
import os
import threading

import pytest

from vladapt.core.errors import ConfigError, DataError
from vladapt.core.runtime import remote
from vladapt.core.runtime.remote import (
    MissingFile,
    RefusedFile,
    is_url,
    matching,
    open_stream,
    printed_name,
    read_small,
    without_secrets,
)

CONTENT = bytes(range(256)) * 20_000  # 5 MB


class Handler(http.server.SimpleHTTPRequestHandler):
    """As `python -m http.server`, which knows no ranges; what is asked is noted, and bodies may break off."""

    def __init__(self, *args, server_state, **options):
        self.state = server_state
        super().__init__(*args, **options)

    def do_GET(self):
        self.state["asked"].append((self.path, self.headers.get("Range")))
        if self.path.startswith("/secret"):
            return self.send_error(403)
        if self.state["breaks"] and self.path.endswith(".bin"):
            return self._broken_off(self.state["breaks"].pop(0))
        if self.state["ranges"] and (asked := self.headers.get("Range")):
            return self._part(int(asked[6:].rstrip("-")))
        return super().do_GET()

    def _broken_off(self, after):
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[:after])
        self.wfile.flush()
        self.connection.close()

    def _part(self, first):
        self.send_response(206)
        self.send_header("Content-Length", str(len(CONTENT) - first))
        self.end_headers()
        self.wfile.write(CONTENT[first:])

    def log_message(self, *args):
        """Nothing."""

    def handle_one_request(self):
        with contextlib.suppress(OSError, ValueError):
            super().handle_one_request()


@pytest.fixture
def server(tmp_path, monkeypatch):
    """(address, state) of an HTTP server of `tmp_path`."""
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.01)
    (tmp_path / "file.bin").write_bytes(CONTENT)
    state = {"asked": [], "breaks": [], "ranges": False}
    handler = functools.partial(Handler, directory=str(tmp_path), server_state=state)
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}", state
    running.shutdown()
    running.server_close()


def test_a_file_is_read_from_beginning_to_end(server):
    address, state = server
    with open_stream(f"{address}/file.bin") as stream:
        assert stream.read() == CONTENT
    assert len(state["asked"]) == 1


@pytest.mark.parametrize("ranges", [False, True])
def test_a_connection_that_breaks_is_taken_up_where_it_was(server, ranges):
    address, state = server
    state.update(breaks=[1_000_000, 100] if not ranges else [1_000_000], ranges=ranges)
    with open_stream(f"{address}/file.bin") as stream:
        parts = iter(lambda: stream.read(70_000), b"")
        assert b"".join(parts) == CONTENT
    assert state["breaks"] == [] and len(state["asked"]) == (2 if ranges else 3)
    assert state["asked"][0][1] is None and state["asked"][-1][1].startswith("bytes=")


def test_one_that_breaks_each_time_is_given_up_in_one_line(server):
    address, state = server
    state["breaks"] = [10] * 100
    with pytest.raises(DataError, match=r"file.bin: cannot be read after 5 tries \(.*; check the address and the netw"):
        open_stream(f"{address}/file.bin").read()


def test_a_missing_file_and_a_refused_one_are_not_tried_again(server):
    address, state = server
    with pytest.raises(MissingFile, match=r"/none.bin: no such file or bucket; restore it"):
        open_stream(f"{address}/none.bin")
    with pytest.raises(RefusedFile, match=r"/secret.bin: access is refused .*; check the credentials") as caught:
        open_stream(f"{address}/secret.bin?token=hush")
    assert len(state["asked"]) == 2 and "hush" not in str(caught.value)
    assert read_small(f"{address}/none.json") is None is read_small(f"{address}/secret.json")
    assert read_small(f"{address}/file.bin") == CONTENT


def test_a_host_that_does_not_answer_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_WAIT_S", 0.001)
    with pytest.raises(DataError, match=r"http://127.0.0.1:9/1.tar: cannot be read after 5 tries") as caught:
        open_stream("http://me:hush@127.0.0.1:9/1.tar?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)


def test_schemes_that_run_commands_or_are_unknown_are_refused():
    for name in ("pipe://cat /etc/passwd", "shell://x", "file:///etc/passwd", "simplecache::s3://a"):
        if is_url(name):
            with pytest.raises(ConfigError, match=r":// is not supported; give a path, or a URL of s3://"):
                open_stream(name)
    assert not is_url("pipe:cat file") and not is_url("C:/files/1.tar") and not is_url("shards/{0..3}.tar")


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    import fsspec

    def lacking(*args, **options):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    with pytest.raises(ConfigError, match=r"gs://bucket/1.tar: reading gs:// needs gcsfs, which is not installed; pip"):
        open_stream("gs://bucket/1.tar")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("https://me:hush@host:80/a/1.tar?sig=hush#x", "https://host:80/a/1.tar"),
        ("s3://bucket/{000..012}.tar", "s3://bucket/{000..012}.tar"),
        ("folder/1?.tar", "folder/1?.tar"),
    ],
)
def test_no_credential_of_an_address_is_shown(name, told):
    assert printed_name(name) == told
    said = f"OSError: cannot open {name} now"
    assert "hush" not in without_secrets(said) and without_secrets(said).endswith(" now")


# S3 --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def bucket(s3_server):
    """The name of a bucket with one file."""
    s3_server.mkdir("files")
    s3_server.pipe("files/a/1.tar", CONTENT)
    s3_server.pipe("files/a/2.tar", b"two")
    s3_server.pipe("files/a/readme.txt", b"")
    yield "s3://files"
    s3_server.rm("files", recursive=True)


def test_a_bucket_is_read_and_listed(bucket):
    with open_stream(f"{bucket}/a/1.tar") as stream:
        assert stream.read(1000) == CONTENT[:1000] and stream.read() == CONTENT[1000:]
    assert matching(f"{bucket}/a") == matching(f"{bucket}/a/*.tar") == [f"{bucket}/a/1.tar", f"{bucket}/a/2.tar"]
    for name in (f"{bucket}/a/3.tar", "s3://none/1.tar"):
        with pytest.raises(MissingFile, match="no such file or bucket"):
            open_stream(name)


def test_wrong_credentials_and_none_are_told_apart_from_a_missing_file(bucket, server, monkeypatch):
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server[0]}/secret")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"s3://files/a/1.tar: access is refused"):
        open_stream(f"{bucket}/a/1.tar")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(DataError, match=r"s3://files/a/1.tar: access is refused \(NoCredentialsError"):
        open_stream(f"{bucket}/a/1.tar")
    s3fs.S3FileSystem.clear_instance_cache()
