"""Files that somebody else could have made."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from backends.files import open_regular, read_regular
from backends.store import open_store, trees


@pytest.fixture(params=["pipe", "link to a pipe", "link to a file", "folder", "socket", "device"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return the path of something that is no regular file, and that waits if it is just opened."""
    path = tmp_path / "odd"
    if request.param == "pipe":
        os.mkfifo(path)
    elif request.param == "link to a pipe":
        os.mkfifo(tmp_path / "pipe")
        path.symlink_to(tmp_path / "pipe")
    elif request.param == "link to a file":
        (tmp_path / "file").write_text("{}")
        path.symlink_to(tmp_path / "file")
    elif request.param == "folder":
        path.mkdir()
    elif request.param == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    else:
        path.symlink_to("/dev/zero")
    return path


def test_what_is_no_regular_file_is_refused_at_once(odd: Path) -> None:
    for flags in (os.O_RDONLY, os.O_WRONLY | os.O_APPEND | os.O_CREAT):
        with pytest.raises(OSError):
            open_regular(str(odd), flags)


def test_a_store_takes_what_is_no_regular_file_for_nothing(odd: Path) -> None:
    store = open_store(str(odd.parent))
    assert store.get("odd") is None and store.age("odd") is None


def test_a_read_has_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    whole = path.read_bytes()
    for limit in (1, 255, 65536, 65537, 200_000, len(whole), len(whole) + 1):
        assert read_regular(str(path), limit) == whole[:limit]
        assert read_regular(str(path), limit, 100) == whole[100 : 100 + limit]
    os.truncate(path, 1 << 40)
    assert len(read_regular(str(path), 1 << 20)) == 1 << 20


def test_a_tree_is_removed_however_deep(tmp_path: Path) -> None:
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").touch()
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(keep)
    (top / "closed").mkdir()
    (top / "closed" / "file").touch()
    (top / "closed").chmod(0o500)
    before = os.getcwd()
    os.chdir(top)
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(before)
    trees.remove(str(top))
    assert not top.exists() and (keep / "file").exists()
    top.symlink_to(keep)
    trees.remove(str(top))
    assert not top.is_symlink() and (keep / "file").exists()
    trees.remove(str(top))
