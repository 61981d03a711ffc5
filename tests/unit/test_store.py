"""The local store, against the model that every store obeys and against a hostile file system."""

from __future__ import annotations

import errno
import multiprocessing
import os
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from backends.errors import ConfigError, InfraError, UsageError
from backends.store import open_store
from backends.store.base import check_key
from backends.store.local import LocalStore
from tests.support import store_model

StoreMachine = store_model.machine(lambda: open_store(tempfile.mkdtemp(prefix="zen-store-")))
TestLocalStoreObeysTheModel = StoreMachine.TestCase
TestLocalStoreObeysTheModel.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    found = open_store(str(tmp_path / "runs"))
    assert isinstance(found, LocalStore)
    return found


def test_opening_writes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "deep" / "runs"))
    assert not (tmp_path / "deep").exists()
    store.put("a/b", b"1")
    assert (tmp_path / "deep" / "runs" / "a" / "b").read_bytes() == b"1"


def test_an_existing_store_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="no such directory"):
        open_store(str(tmp_path / "typo"), create=False)
    assert open_store(str(tmp_path), create=False).root == str(tmp_path)


@pytest.mark.parametrize(
    ("url", "root"), [("file:///x/y", "/x/y"), ("file://localhost/x%20y", "/x y"), ("/x/../y/", "/y"), ("rel", None)]
)
def test_ways_to_name_a_directory(url: str, root: str | None) -> None:
    store = open_store(url)
    assert store.root == (root or str(Path.cwd() / url))
    assert store.url_of("k") == f"{store.root}/k"


@pytest.mark.parametrize("url", ["", "ftp://x/y", "file://host/x", "S4://b", "a\0b"])
def test_urls_that_are_no_store(url: str) -> None:
    with pytest.raises(ConfigError, match="store"):
        open_store(url)


@pytest.mark.parametrize("key", ["", "/", "/etc/passwd", "..", "a/../b", "a//b", "a/", "./a", "a\0b", "a\nb", "a\udc80"])
def test_keys_that_are_none(store: LocalStore, key: str) -> None:
    with pytest.raises(UsageError, match="not a key"):
        check_key(key)
    for call in (store.get, store.exists, store.age, store.delete, store.url_of):
        with pytest.raises(UsageError):
            call(key)
    with pytest.raises(UsageError):
        store.put(key, b"")


def test_staged_writes_are_not_objects(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/x", b"1")
    (tmp_path / "runs" / "a" / ".tmp-left").write_bytes(b"half")
    assert store.names("a") == ["x"]
    assert list(store.walk("")) == [("a/x", 1)]


def test_no_write_leaves_anything_behind(store: LocalStore, tmp_path: Path) -> None:
    store.put("a/x", b"1")
    assert store.create("a/y", b"2")
    assert not store.create("a/y", b"3")
    store.age("a/x")
    (tmp_path / "f").write_bytes(b"4")
    store.upload("a/z", str(tmp_path / "f"))
    assert store.download("a/z", str(tmp_path / "g"))
    assert not store.download("a/none", str(tmp_path / "h"))
    assert sorted(p.name for p in (tmp_path / "runs" / "a").iterdir()) == ["x", "y", "z"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "g", "runs"]
    assert (tmp_path / "g").read_bytes() == b"4"


def test_permissions_follow_the_umask(store: LocalStore, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        store.put("a/x", b"1")
        store.create("a/y", b"1")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / "runs" / "a" / name).stat().st_mode) for name in ("x", "y", ".")]
    assert modes == [0o640, 0o640, 0o750]


def test_a_file_where_a_folder_should_be(store: LocalStore) -> None:
    store.put("a", b"1")
    assert store.get("a/b") is None
    assert store.names("a") == []
    assert store.age("a/b") is None
    store.delete("a/b")
    with pytest.raises(InfraError, match="a file is where a directory should be"):
        store.put("a/b", b"")
    assert store.get("a") == b"1"
    store.put("d/e", b"1")
    assert store.get("d") is None
    assert not store.exists("d")


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-write"), (errno.EACCES, "run as its owner"), (errno.EIO, "disk")],
)
def test_faults_say_what_where_and_what_to_do(store: LocalStore, monkeypatch: pytest.MonkeyPatch, number: int, hint: str) -> None:
    store.put("a/x", b"old")

    def fail(*_args: object) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        with pytest.raises(InfraError) as caught:
            store.put("a/x", b"new")
    text = str(caught.value)
    assert "cannot write" in text
    assert f"{store.root}/a/x" in text
    assert os.strerror(number) in text
    assert hint in text
    assert isinstance(caught.value.__cause__, OSError)
    assert store.get("a/x") == b"old"
    assert os.listdir(f"{store.root}/a") == ["x"]


def test_short_writes_are_completed(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[:3]))
        store.put("a", b"0123456789")
    assert store.get("a") == b"0123456789"


def test_create_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", fail)
    assert store.create("a/x", b"1")
    assert not store.create("a/x", b"2")
    assert store.get("a/x") == b"1"
    assert os.listdir(f"{store.root}/a") == ["x"]


def test_age_is_by_the_file_system_s_clock(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("a/x", b"1")
    now = os.stat(f"{store.root}/a/x").st_mtime
    os.utime(f"{store.root}/a/x", (now - 100, now - 100))
    monkeypatch.setattr("time.time", lambda: now + 10_000)  # this machine's clock is wrong
    age = store.age("a/x")
    assert age is not None
    assert 100 <= age < 110


def _race(root: str, gate: str, number: int, answers: multiprocessing.SimpleQueue[tuple[int, bool]]) -> None:
    store = open_store(root)
    while not os.path.exists(gate):
        pass
    answers.put((number, store.create("deep/er/claim", str(number).encode() * 1000)))


@pytest.mark.processes
def test_of_many_creates_exactly_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for turn in range(3):
        answers: multiprocessing.SimpleQueue[tuple[int, bool]] = context.SimpleQueue()
        root, gate = str(tmp_path / f"s{turn}"), tmp_path / f"gate{turn}"
        children = [context.Process(target=_race, args=(root, str(gate), n, answers)) for n in range(16)]
        for child in children:
            child.start()
        gate.touch()
        found = dict(answers.get() for _ in children)
        for child in children:
            child.join()
        winners = [number for number, won in found.items() if won]
        assert len(winners) == 1
        assert open_store(root).get("deep/er/claim") == str(winners[0]).encode() * 1000


@pytest.mark.processes
def test_the_local_store_imports_next_to_nothing() -> None:
    code = (
        "import os, sys; before = set(sys.modules); import backends.store, backends.store.records, backends.store.artifacts;"
        "print(*sorted(m for m in set(sys.modules) - before if not m.startswith('backends')))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert set(done.stdout.split()) <= {"__future__", "errno", "time", "_json"}
