"""Checkpoints of the Hugging Face Hub: from its cache, without network, and over HTTP.

The server speaks the part of the Hub's HTTP interface that huggingface_hub needs.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from benchmarks.compatibility.frameworks import recipe
from toto_robot import load_encoder, load_toto
from toto_robot.encode import main
from toto_robot.encoders.hub import push_to_hub
from toto_robot.encoders.loading import WEIGHTS, load_tokenizer

NANO = WEIGHTS / "toto-nano"
REPO = "org/toto-nano"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
FRAMES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
FILES = ["config.json", "golden.safetensors", "weights.safetensors"]


def cached(cache, folder, files=FILES, repo=REPO, commit=COMMIT):
    """Write a folder in the layout of the Hub's cache: blobs, links in snapshots, refs."""
    home = cache / f"models--{repo.replace('/', '--')}"
    snapshot = home / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(commit)
    for name in files:
        blob = home / "blobs" / hashlib.sha256((folder / name).read_bytes()).hexdigest()
        shutil.copyfile(folder / name, blob)
        (snapshot / name).symlink_to(os.path.relpath(blob, snapshot))
    return snapshot


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, without network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


@pytest.fixture
def hub(cache, monkeypatch):
    """A server with one repository per name: files by commit."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, code, body=b"", **headers):
            self.send_response(code)
            for name, value in {"Content-Length": len(body), **headers}.items():
                self.send_header(name.replace("_", "-"), str(value))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            server.requests.append(self.path)
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
            files = server.commits.get((match[1], match[2]), {}) if match else {}
            if match is None or match[3] not in files:
                self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=COMMIT)
                return
            body = files[match[3]]
            etag = hashlib.sha256(body).hexdigest()
            self.answer(200, body, ETag=f'"{etag}"', X_Repo_Commit=server.claimed or match[2])

        do_HEAD = do_GET

        def do_POST(self):
            server.requests.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/api/repos/create":
                server.created.append(json.loads(body))
                reply = {"url": f"{server.address}/{REPO}", "name": REPO}
            elif "/preupload/" in self.path:
                paths = [file["path"] for file in json.loads(body)["files"]]
                reply = {"files": [
                    {"path": path, "uploadMode": "regular", "shouldIgnore": False}
                    for path in paths
                ]}  # fmt: skip
            else:
                lines = [json.loads(line) for line in body.splitlines()]
                repo = self.path.removeprefix("/api/models/").partition("/commit/")[0]
                server.commits[repo, COMMIT] = {
                    line["value"]["path"]: base64.b64decode(line["value"]["content"])
                    for line in lines if line["key"] == "file"
                }  # fmt: skip
                reply = {"commitUrl": f"{server.address}/{REPO}/commit/x", "commitOid": COMMIT}
            self.answer(200, json.dumps(reply).encode(), Content_Type="application/json")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.address = f"http://127.0.0.1:{server.server_port}"
    server.commits, server.requests, server.created, server.claimed = {}, [], [], None
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE",
        server.address + "/{repo_id}/resolve/{revision}/{filename}",
    )  # fmt: skip
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    with contextlib.suppress(AttributeError):  # not in huggingface_hub < 1
        huggingface_hub.close_session()
    server.shutdown()
    server.server_close()
    thread.join()


def uploaded(folder=NANO, names=FILES):
    return {name: (folder / name).read_bytes() for name in names}


def test_an_encoder_in_the_cache_is_loaded_offline_as_from_its_folder(cache):
    cached(cache, NANO)
    encoder = load_encoder(f"hf:{REPO}@{COMMIT}")
    shipped = load_encoder("toto-nano")
    assert encoder.fingerprint == shipped.fingerprint
    assert (encoder(FRAMES) == shipped(FRAMES)).all()


def test_revision_and_layer_are_arguments_too(cache):
    cached(cache, NANO)
    encoder = load_toto(f"hf:{REPO}", revision=COMMIT, layer=2, pool="grid4")
    assert (encoder.layer, encoder.pool) == (2, "grid4")
    tokenizer = load_tokenizer(f"hf:{REPO}@{COMMIT}")
    assert tokenizer.config == encoder.tokenizer.config


def test_a_vision_transformer_needs_no_golden_vectors(cache):
    cached(cache, WEIGHTS / "mae-nano", ["config.json", "weights.safetensors"])
    assert load_encoder(f"hf:{REPO}@{COMMIT}").dim == load_encoder("mae-nano").dim


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper()])
def test_only_the_hash_of_a_commit_is_accepted(cache, revision):
    cached(cache, NANO)
    with pytest.raises(ValueError, match=r"40 hexadecimal digits.*commits/main"):
        load_encoder(f"hf:{REPO}", revision=revision)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("hf:toto-nano", COMMIT, "is named org/name"),
        ("hf:", COMMIT, "is named org/name"),
        ("hf:org/../name", COMMIT, "is named org/name"),
        ("hf:org/../..", COMMIT, "is named org/name"),
        (f"hf:{REPO}@{COMMIT}", COMMIT[::-1], "another one"),
        ("toto-nano", COMMIT, "revision= needs a name of the Hugging Face Hub"),
    ],
)
def test_wrong_names_get_one_clear_line(cache, name, revision, message):
    with pytest.raises(ValueError, match=message):
        load_encoder(name, revision=revision)


@pytest.mark.parametrize("missing", FILES)
def test_a_file_that_is_missing_offline_is_named(cache, missing):
    cached(cache, NANO, [name for name in FILES if name != missing])
    with pytest.raises(FileNotFoundError, match=missing):
        load_encoder(f"hf:{REPO}@{COMMIT}")


def test_weights_that_changed_in_the_cache_are_refused(cache):
    snapshot = cached(cache, NANO)
    blob = (snapshot / "weights.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    with pytest.raises(ValueError, match="damaged or was replaced"):
        load_encoder(f"hf:{REPO}@{COMMIT}")


def test_golden_vectors_of_other_weights_are_refused(cache):
    snapshot = cached(cache, NANO)
    blob = (snapshot / "golden.safetensors").resolve()
    save_file(load_file(blob), blob, {"weights_hash": "0" * 64})
    with pytest.raises(ValueError, match="other weights"):
        load_encoder(f"hf:{REPO}@{COMMIT}")


def test_a_download_fetches_three_files_once_and_nothing_afterwards(hub, cache, capsys):
    pickles = {"train_state.pt": b"\x80\x04.", "code.py": b"raise SystemExit", "README.md": b"#"}
    hub.commits[REPO, COMMIT] = uploaded() | pickles
    first = load_encoder(f"hf:{REPO}@{COMMIT}")
    assert f"loading hf:{REPO}@{COMMIT} from the Hugging Face Hub" in capsys.readouterr().err
    (snapshot,) = cache.glob("models--*/snapshots/*")
    assert sorted(path.name for path in snapshot.iterdir()) == FILES
    seen = len(hub.requests)
    again = load_encoder(f"hf:{REPO}@{COMMIT}")
    assert len(hub.requests) == seen
    assert "Hugging Face Hub" not in capsys.readouterr().err
    assert (first(FRAMES) == again(FRAMES)).all()


def test_a_repository_without_golden_vectors_is_refused(hub):
    hub.commits[REPO, COMMIT] = uploaded(names=["config.json", "weights.safetensors"])
    with pytest.raises(FileNotFoundError, match=r"golden\.safetensors of hf:org/toto-nano@0123"):
        load_encoder(f"hf:{REPO}@{COMMIT}")


def test_a_server_that_answers_with_another_commit_is_refused(hub):
    hub.commits[REPO, COMMIT] = uploaded()
    hub.claimed = COMMIT[::-1]
    with pytest.raises(ValueError, match=f"the server sent {COMMIT[::-1]}"):
        load_encoder(f"hf:{REPO}@{COMMIT}")


def test_what_is_pushed_can_be_loaded_by_the_hash_of_its_commit(hub, tmp_path, capsys):
    folder = tmp_path / "checkpoint"
    shutil.copytree(NANO, folder)
    (folder / "train_state.pt").write_bytes(b"not for others")
    commit = push_to_hub(folder, REPO)
    assert f"hf:{REPO}@{commit}" in capsys.readouterr().out
    assert sorted(hub.commits[REPO, commit]) == FILES
    (created,) = hub.created
    assert created["visibility"] == "private"
    encoder = load_encoder(f"hf:{REPO}@{commit}")
    assert encoder.fingerprint == load_encoder("toto-nano").fingerprint


def test_the_recipe_of_the_page_uploads_and_loads(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(NANO, tmp_path / "runs" / "pretrain" / "encoder")
    names = {}
    exec(recipe("Hugging Face Hub"), names)
    assert names["commit"] == COMMIT
    assert names["encoder"].fingerprint == load_encoder("toto-nano").fingerprint


@pytest.mark.parametrize("name", ["golden.safetensors", "weights.safetensors"])
def test_an_incomplete_checkpoint_is_not_pushed(hub, tmp_path, name):
    folder = tmp_path / "checkpoint"
    shutil.copytree(NANO, folder)
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        push_to_hub(folder, REPO)
    with pytest.raises(ValueError, match="org/name"):
        push_to_hub(NANO, "toto-nano")
    assert hub.requests == []


def test_a_command_takes_a_name_of_the_hub(cache, tmp_path, monkeypatch, capsys):
    cached(cache, NANO)
    (tmp_path / "images").mkdir()
    cv2.imwrite(str(tmp_path / "images" / "0.png"), FRAMES[0, ..., ::-1])
    for name in (f"hf:{REPO}@{COMMIT}", f"encoder.name_or_path=hf:{REPO}@{COMMIT}"):
        setting = name if "=" in name else f"encoder={name}"
        words = ["encode", f"images={tmp_path / 'images'}", f"out={tmp_path / 'out.npy'}", setting]
        monkeypatch.setattr(sys, "argv", words)
        main()
        assert (
            np.load(tmp_path / "out.npy") == load_encoder("toto-nano")(FRAMES[:1]).numpy()
        ).all()
