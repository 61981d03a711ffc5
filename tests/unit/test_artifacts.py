"""Digests, publishing and fetching on a local store, and what must be refused."""

from __future__ import annotations

import hashlib
import http.server
import os
import random
import shutil
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import wire
from backends.errors import InfraError, InputError, UserError
from backends.store import artifacts, digests, open_store, trees
from backends.store.base import Store

NAMES = st.sampled_from(["a", "b", "c.txt", "é", "sub dir", ".hidden", "z%"])
Tree = dict[str, "bytes | Tree"]
TREES: st.SearchStrategy[Tree] = st.dictionaries(NAMES, st.one_of(st.binary(max_size=20), st.deferred(lambda: TREES)), max_size=4)


def write(path: Path, tree: Tree | bytes, order: random.Random | None = None) -> None:
    if isinstance(tree, bytes):
        path.write_bytes(tree)
        return
    path.mkdir()
    items = list(tree.items())
    if order:
        order.shuffle(items)
    for name, below in items:
        write(path / name, below, order)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"))


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_a_file_s_digest_is_its_sha256(tmp_path: Path) -> None:
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3 << 20):
        data = os.urandom(size)
        (tmp_path / "f").write_bytes(data)
        assert digests.digest(str(tmp_path / "f")) == f"sha256:{sha(data)}"


def test_the_worked_example(tmp_path: Path) -> None:
    """docs/store.md has this tree and its digest."""
    write(tmp_path / "model", {"weights.bin": b"hello\n", "run.sh": b"#!/bin/sh\n", "logs": {}})
    (tmp_path / "model" / "run.sh").chmod(0o755)
    lines = (
        '["zen-runner tree",1]\n'
        '["logs","d",0,""]\n'
        f'["run.sh","x",10,"{sha(b"#!/bin/sh" + bytes([10]))}"]\n'
        f'["weights.bin","-",6,"{sha(b"hello" + bytes([10]))}"]\n'
    )
    digest = digests.digest(str(tmp_path / "model"))
    assert digest == f"sha256:{sha(lines.encode())}"
    text = (Path(__file__).parents[2] / "docs" / "store.md").read_text()
    assert lines in text
    assert digest in text


@settings(max_examples=40, deadline=None)
@given(tree=TREES, other=TREES, seed=st.integers(0, 100))
def test_a_tree_s_digest_is_its_content(tmp_path_factory: pytest.TempPathFactory, tree: Tree, other: Tree, seed: int) -> None:
    tmp_path = tmp_path_factory.mktemp("t")
    write(tmp_path / "one", tree)
    write(tmp_path / "two", tree, random.Random(seed))  # noqa: S311
    write(tmp_path / "other", other)
    os.utime(tmp_path / "two", (1, 1))
    one, two = digests.digest(str(tmp_path / "one")), digests.digest(str(tmp_path / "two"))
    assert one == two
    assert (digests.digest(str(tmp_path / "other")) == one) == (other == tree)
    shutil.rmtree(tmp_path)


def test_what_changes_a_tree_s_digest(tmp_path: Path) -> None:
    write(tmp_path / "d", {"a": b"1", "b": {"c": b"2"}})
    path = str(tmp_path / "d")
    seen = [digests.digest(path)]
    (tmp_path / "d" / "a").chmod(0o744)
    seen.append(digests.digest(path))
    (tmp_path / "d" / "a").rename(tmp_path / "d" / "a2")
    seen.append(digests.digest(path))
    (tmp_path / "d" / "b" / "c").write_bytes(b"3")
    seen.append(digests.digest(path))
    (tmp_path / "d" / "empty").mkdir()
    seen.append(digests.digest(path))
    (tmp_path / "d" / "b" / "c").rename(tmp_path / "d" / "c")
    seen.append(digests.digest(path))
    assert len(set(seen)) == len(seen)
    (tmp_path / "e").mkdir()
    (tmp_path / "f").touch()
    assert digests.digest(str(tmp_path / "e")) != digests.digest(str(tmp_path / "f"))


def test_publishing_moves_and_fetching_verifies(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "f", b"123")
    write(tmp_path / "d", {"x": b"1", "y": {"z": b"22"}})
    file = artifacts.publish(store, "runs/r/s/1/out/f", str(tmp_path / "f"))
    folder = artifacts.publish(store, "runs/r/s/1/out/d", str(tmp_path / "d"))
    assert file == {"key": "runs/r/s/1/out/f", "digest": f"sha256:{sha(b'123')}", "size": 3, "kind": "file", "files": 1}
    assert (folder["size"], folder["kind"], folder["files"]) == (3, "dir", 2)
    assert not (tmp_path / "f").exists() and not (tmp_path / "d").exists()
    assert artifacts.is_whole(store, file) and artifacts.is_whole(store, folder)
    scratch = tmp_path / "scratch"
    assert artifacts.fetch(store, file, str(scratch)) == store.url_of(file["key"])
    path = Path(artifacts.fetch(store, folder, str(scratch)))
    assert (path / "y" / "z").read_bytes() == b"22"
    assert not scratch.exists()
    assert artifacts.adopt(store, folder["key"]) == folder
    (path / "y" / "z").chmod(0o644)
    (path / "y" / "z").write_bytes(b"23")
    with pytest.raises(InputError) as caught:
        artifacts.fetch(store, folder, str(scratch), "table")
    found = digests.digest(str(path))
    for part in ("'table'", str(path), folder["digest"], found, "attempt 1 of step 's' in run 'r' published it"):
        assert part in str(caught.value)
    shutil.rmtree(path)
    with pytest.raises(InputError, match="does not exist"):
        artifacts.fetch(store, folder, str(scratch), "table")


def test_an_output_that_was_not_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"output 'model' was not written: nothing is at .*/tmp/model"):
        artifacts.publish(store, "runs/r/s/1/out/model", str(tmp_path / "tmp" / "model"))
    with pytest.raises(UserError, match="was not written"):
        artifacts.adopt(store, "runs/r/s/1/out/model")


def test_shards_beside_an_output_are_told(store: Store) -> None:
    for number in range(3):
        store.put(f"runs/r/s/1/out/model-0000{number}-of-00003", b"x")
    store.put("runs/r/s/1/out/models", b"another output")
    with pytest.raises(UserError, match=r"but there is model-00000-of-00003 and 2 more beside it; write to outputs\[.model.\]"):
        artifacts.adopt(store, "runs/r/s/1/out/model")
    assert artifacts.beside("model", ["model", "models", "mode-1"], "") == ""
    said = artifacts.beside("model", ["model-1"], "{outputs.model}/part")
    assert said == ", but there is model-1 beside it; write to {outputs.model}/part, so that the output is a directory"


def test_links_inside_are_content_and_survive_the_move(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "d", {"v1": {"w": b"1"}, "sub": {}})
    base = tmp_path / "d"
    (base / "latest").symlink_to(base / "v1")  # absolute
    (base / "sub" / "back").symlink_to("../../d/v1/w")  # leaves and comes back
    (base / "sub" / "chain").symlink_to("../latest/w")
    before = digests.digest(str(base))
    artifact = artifacts.publish(store, "out/d", str(base))
    path = Path(artifacts.fetch(store, artifact, str(tmp_path)))
    assert artifact["digest"] == before
    assert artifact["files"] == 4
    for name in ("latest/w", "sub/back", "sub/chain", "v1/w"):
        assert (path / name).read_bytes() == b"1"
    shutil.copytree(path, tmp_path / "copy")
    assert digests.digest(str(tmp_path / "copy")) == before


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("link out", "outside of the output"),
        ("link to root", "outside of the output"),
        ("link up", "a directory that it lies in"),
        ("loop", "leads nowhere"),
        ("dangling", "leads nowhere"),
        ("pipe", "is a pipe"),
        ("socket", "is a socket"),
        ("not utf-8", "not UTF-8"),
        ("newline", "control character"),
    ],
)
def test_what_can_t_be_published(store: Store, tmp_path: Path, kind: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "d", {"sub": {"ok": b"1"}})
    write(tmp_path / "d2", {"x": b"secret"})
    odd = tmp_path / "d" / "sub" / "odd"
    if kind == "link out":
        odd.symlink_to("../../d2/x")  # "d2" begins with "d"
    elif kind == "link to root":
        odd.symlink_to("/")
    elif kind == "link up":
        odd.symlink_to("..")
    elif kind == "loop":
        odd.symlink_to("odd")
    elif kind == "dangling":
        odd.symlink_to("none")
    elif kind == "pipe":
        os.mkfifo(odd)
    elif kind == "socket":
        monkeypatch.chdir(odd.parent)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("odd")
    elif kind == "not utf-8":
        odd = Path(os.fsdecode(os.fsencode(odd) + b"\xff"))
        odd.touch()
    else:
        odd = odd.with_name("odd\n")
        odd.touch()
    with pytest.raises(UserError, match=says) as caught:
        artifacts.publish(store, "out/d", str(tmp_path / "d"))
    assert "odd" in str(caught.value)
    # So it is with an input from elsewhere, but that its links may lead out.
    if kind not in ("link out", "link to root"):
        with pytest.raises(InputError, match=says):
            artifacts.fetch_url(str(tmp_path / "d"), str(tmp_path / "scratch"))
    assert (tmp_path / "d").is_dir()
    assert store.names("out") == []


def test_an_output_may_not_be_a_link_itself(store: Store, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"1")
    (tmp_path / "out").symlink_to("data")
    with pytest.raises(UserError, match="is a link to data"):
        artifacts.publish(store, "out/f", str(tmp_path / "out"))


def test_publishing_from_another_file_system(store: Store, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system here")
    trees: dict[str, Tree | bytes] = {"f": b"1", "d": {"a": b"1", "e": {}}}
    for name, tree in trees.items():
        path = other / f"zen-test-{os.getpid()}-{name}"
        write(path, tree)
        artifact = artifacts.publish(store, f"out/{name}", str(path))
        assert not path.exists()
        assert artifacts.fetch(store, artifact, str(tmp_path)) == store.url_of(f"out/{name}")
    assert store.names("out") == ["d", "d.tree.json", "f"]
    assert not [name for name in os.listdir(f"{store.root}/out") if name.startswith(".")]


def test_external_files_and_folders(tmp_path: Path) -> None:
    write(tmp_path / "f", b"123")
    write(tmp_path / "d", {"x": b"1"})
    (tmp_path / "d" / "far").symlink_to(tmp_path / "f")
    (tmp_path / "current").symlink_to("f")
    scratch = str(tmp_path / "scratch")
    assert artifacts.fetch_url(str(tmp_path / "f"), scratch) == (str(tmp_path / "f"), f"sha256:{sha(b'123')}")
    assert artifacts.fetch_url(f"file://{tmp_path}/current", scratch) == (str(tmp_path / "current"), f"sha256:{sha(b'123')}")
    write(tmp_path / "same", {"x": b"1", "far": b"123"})
    assert artifacts.fetch_url(str(tmp_path / "d"), scratch)[1] == digests.digest(str(tmp_path / "same"))
    with pytest.raises(InputError, match=r"input 'raw' \(/none/x\) does not exist"):
        artifacts.fetch_url("/none/x", scratch, "raw")
    with pytest.raises(InputError, match="no such kind of URL"):
        artifacts.fetch_url("ftp://x/y", scratch)
    assert not (tmp_path / "scratch").exists()


@pytest.fixture
def web() -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status = {"/d/x.csv": 200, "/busy": 503}.get(self.path.partition("?")[0], 404)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(b"a,b\n")

        def log_message(self, *_args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_external_files_on_the_web(web: str, tmp_path: Path) -> None:
    path, digest = artifacts.fetch_url(f"{web}/d/x.csv?v=1", str(tmp_path))
    assert os.path.basename(path) == "x.csv"
    assert Path(path).read_bytes() == b"a,b\n"
    assert digest == f"sha256:{sha(b'a,b' + bytes([10]))}"
    again, _ = artifacts.fetch_url(f"{web}/d/x.csv", str(tmp_path))
    assert again != path
    with pytest.raises(InputError, match="404"):
        artifacts.fetch_url(f"{web}/none", str(tmp_path))
    with pytest.raises(InfraError, match="503"):
        artifacts.fetch_url(f"{web}/busy", str(tmp_path))
    with pytest.raises(InfraError, match="could not be read"):
        artifacts.fetch_url("http://127.0.0.1:9/x", str(tmp_path))


class Bucket(Store):
    """A store that is not local, in memory, as far as fetching goes."""

    def __init__(self) -> None:
        self.url = "s3://b"
        self.root = None
        self.objects: dict[str, bytes] = {}

    def get(self, key: str, start: int = 0) -> bytes | None:
        return self.objects[key][start:] if key in self.objects else None

    def put(self, key: str, data: bytes) -> None:
        self.objects[key] = data

    def download(self, key: str, path: str) -> bool:
        if key in self.objects:
            Path(path).write_bytes(self.objects[key])
        return key in self.objects

    def exists(self, key: str) -> bool:
        return key in self.objects

    def stream(self, key: str) -> Iterator[bytes]:
        if key in self.objects:
            yield self.objects[key]

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        yield from ((key, len(data)) for key, data in self.objects.items() if key.startswith(f"{prefix}/"))

    def upload(self, key: str, path: str) -> None:
        self.objects[key] = Path(path).read_bytes()

    def url_of(self, key: str) -> str:
        return f"{self.url}/{key}"


@pytest.mark.parametrize("member", ["../evil", "/etc/evil", "a/../../evil", "", "a//b", ".", "a\0b", 5, None])
def test_a_manifest_may_not_lead_out(tmp_path: Path, member: object) -> None:
    bucket = Bucket()
    line = [member, "-", 1, sha(b"1")]
    text = '["zen-runner tree",1]\n' + wire.dumps(line) + "\n"
    bucket.put("out/d.tree.json", wire.dumps({"version": 1, "files": [line]}).encode())
    artifact: Any = {"key": "out/d", "digest": f"sha256:{sha(text.encode())}", "kind": "dir"}
    with pytest.raises(InputError, match="not the name of a file"):
        artifacts.fetch(bucket, artifact, str(tmp_path / "scratch"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("data", [b"", b"[]", b'{"files":5}', b'{"files":[5]}', b'{"files":[[]]}', b"\xff"])
def test_a_damaged_manifest(tmp_path: Path, data: bytes) -> None:
    bucket = Bucket()
    bucket.put("out/d.tree.json", data)
    artifact: Any = {"key": "out/d", "digest": "sha256:0", "kind": "dir"}
    with pytest.raises(InputError, match="manifest is damaged"):
        artifacts.fetch(bucket, artifact, str(tmp_path))


def test_every_change_in_a_bucket_is_found(tmp_path: Path) -> None:
    bucket = Bucket()
    write(tmp_path / "d", {"a": b"1", "e": {}, "s": {"x": b"2"}})
    (tmp_path / "d" / "a").chmod(0o700)
    artifact = artifacts.publish(bucket, "out/d", str(tmp_path / "d"))
    path = Path(artifacts.fetch(bucket, artifact, str(tmp_path / "scratch")))
    assert path.name == "d"
    assert digests.digest(str(path)) == artifact["digest"]
    assert (path / "e").is_dir() and os.access(path / "a", os.X_OK)
    good = dict(bucket.objects)
    for key, data in [
        ("out/d/a", b"9"),
        ("out/d/s/x", b"22"),
        ("out/d.tree.json", good["out/d.tree.json"].replace(b'"x"', b'"-"')),
    ]:
        bucket.objects = {**good, key: data}
        with pytest.raises(InputError, match="not what was published"):
            artifacts.fetch(bucket, artifact, str(tmp_path / "scratch"))
    for key in good:
        bucket.objects = {k: v for k, v in good.items() if k != key}
        with pytest.raises(InputError, match="missing from the store"):
            artifacts.fetch(bucket, artifact, str(tmp_path / "scratch"))


MADE = [("f", b"1"), ("p", b"#!"), ("d", {"a": b"1", "p": b"2", "s": {"x": b"2"}, "e": {}})]


def made(folder: Path) -> None:
    """Write a file, a program, and a folder with both."""
    folder.mkdir(exist_ok=True)
    for name, tree in MADE:
        write(folder / name, tree)  # type: ignore[arg-type]
    (folder / "p").chmod(0o775)
    (folder / "d" / "p").chmod(0o4755)


def modes(path: Path) -> list[str]:
    return sorted(f"{stat.S_IMODE(below.stat().st_mode):o} {below.name}" for below in [path, *path.rglob("*")])


READ_ONLY = {"f": ["444 f"], "p": ["555 p"], "d": ["444 a", "444 x", "555 d", "555 e", "555 p", "555 s"]}


@pytest.mark.parametrize("kind", ["directory", "bucket"])
@pytest.mark.parametrize("name", [name for name, _ in MADE])
def test_what_a_step_gets_is_read_only_and_runs_if_it_did(tmp_path: Path, kind: str, name: str) -> None:
    store = open_store(str(tmp_path / "runs")) if kind == "directory" else Bucket()
    made(tmp_path / "out")
    artifact = artifacts.publish(store, f"out/{name}", str(tmp_path / "out" / name))
    assert artifact.get("executable", False) is (name == "p")
    assert artifacts.is_whole(store, artifact)
    path = Path(artifacts.fetch(store, artifact, str(tmp_path / "scratch")))
    assert modes(path) == READ_ONLY[name]
    assert digests.digest(str(path)) == artifact["digest"]
    trees.remove(str(path))
    assert not path.exists()


@pytest.mark.parametrize("size", [1, 100])
def test_a_changed_artifact_in_a_bucket_is_not_whole(tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "_REHASHED", 50)
    write(tmp_path / "f", b"1" * size)
    write(tmp_path / "d", {"a": b"1" * size, "b": b""})
    bucket = Bucket()
    for name, key in (("f", "out/f"), ("d", "out/d/a")):
        artifact = artifacts.publish(bucket, f"out/{name}", str(tmp_path / name))
        assert artifacts.is_whole(bucket, artifact)
        good = dict(bucket.objects)
        for data in (b"1" * (size - 1), b"1" * (size + 1), None):
            bucket.objects.pop(key)
            if data is not None:
                bucket.objects[key] = data
            assert not artifacts.is_whole(bucket, artifact)
            bucket.objects = dict(good)
        bucket.objects[key] = b"2" * size
        assert artifacts.is_whole(bucket, artifact) is (size > 50)  # of a large one only the size is looked at
        bucket.objects = dict(good)


def test_bytecode_that_root_leaves_beside_modules_is_swept(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "d", {"m.py": b"", "sub": {"n.py": b""}})
    artifact = artifacts.publish(store, "out/d", str(tmp_path / "d"))
    path = Path(store.url_of("out/d"))
    path.chmod(0o755)
    write(path / "__pycache__", {"m.pyc": b"1"})
    assert artifacts.fetch(store, artifact, str(tmp_path)) == str(path)
    assert not (path / "__pycache__").exists()
    write(path / "other", b"1")
    with pytest.raises(InputError, match="not what was published"):
        artifacts.fetch(store, artifact, str(tmp_path))


def test_what_is_in_the_way_of_an_output_is_the_step_s_doing(store: Store, tmp_path: Path) -> None:
    write(tmp_path / "f", b"1")
    (Path(store.url_of("out/f")) / "x").mkdir(parents=True)
    with pytest.raises(UserError, match="in its place"):
        artifacts.publish(store, "out/f", str(tmp_path / "f"))


def test_a_prefix_that_no_directory_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket = Bucket()
    monkeypatch.setattr(artifacts, "open_store", lambda url: bucket)
    bucket.objects = {"in/a": b"1", "in/a/b": b"2"}
    with pytest.raises(InputError, match="'a' is an object and a folder at once"):
        artifacts.fetch_url("s3://b/in", str(tmp_path))
    bucket.objects = {"in/" + "d/" * 300 + "x": b"1"}
    with pytest.raises(InputError, match="more than 200 folders"):
        artifacts.fetch_url("s3://b/in", str(tmp_path))
    bucket.objects = {"in#1/a?b": b"1", "in": b"2"}
    path, _ = artifacts.fetch_url("s3://b/in#1/a?b", str(tmp_path))
    assert (os.path.basename(path), Path(path).read_bytes()) == ("a?b", b"1")


class Stopped(Exception):
    pass


def test_each_way_of_reading_and_writing_looks_whether_it_is_to_stop(tmp_path: Path) -> None:
    def stop() -> None:
        raise Stopped

    for store in (open_store(str(tmp_path / "runs")), Bucket()):
        for name, data in (("f", b"1" * (1 << 20)), ("d", {"x": b"1"})):
            write(tmp_path / name, data)  # type: ignore[arg-type]
            with pytest.raises(Stopped):
                artifacts.publish(store, f"out/{name}", str(tmp_path / name), check=stop)
            artifact = artifacts.publish(store, f"out/{name}", str(tmp_path / name))
            scratch = str(tmp_path / "scratch")
            for work in (
                lambda: artifacts.fetch(store, artifact, scratch, check=stop),  # noqa: B023
                lambda: artifacts.gather(store, [artifact], scratch, check=stop),  # noqa: B023
                lambda: artifacts.is_whole(store, artifact, check=stop),  # noqa: B023
            ):
                with pytest.raises(Stopped):
                    work()
            trees.remove(str(tmp_path / name))
    write(tmp_path / "f", b"1" * (1 << 20))
    with pytest.raises(Stopped):
        artifacts.fetch_url(str(tmp_path / "f"), str(tmp_path), check=stop)
    with pytest.raises(Stopped):
        digests.digest(str(tmp_path / "f"), check=stop)


def test_of_an_output_with_a_suffix_it_is_told() -> None:
    assert artifacts.beside("plot", ["plot.png", "other"], "").startswith(", but there is 'plot.png' beside it")
    assert artifacts.beside("plot", ["other.png"], "") == ""
