"""Folders that a hostile or unlucky step made: each oddity has one rule, and none is more than this process can bear."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from backends.errors import InfraError, InputError, UserError
from backends.store import artifacts, digests, open_store, trees
from backends.store.base import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "runs"))


def deep(path: Path, levels: int) -> None:
    """Make a chain of folders, deeper than a path can be long, with a file at its end."""
    path.mkdir()
    fd = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("end", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)


@pytest.mark.parametrize("levels", [300, 2000])
def test_a_deep_tree_is_refused_and_can_be_removed(store: Store, tmp_path: Path, levels: int) -> None:
    deep(tmp_path / "o", levels)
    with pytest.raises(UserError, match="more than 200 folders below each other"):
        artifacts.publish(store, "out/o", str(tmp_path / "o"))
    with pytest.raises(InputError, match="more than 200 folders below each other"):
        artifacts.fetch_url(str(tmp_path / "o"), str(tmp_path))
    trees.remove(str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()


def test_as_deep_as_may_be(store: Store, tmp_path: Path) -> None:
    deep(tmp_path / "o", 200)
    artifact = artifacts.publish(store, "out/o", str(tmp_path / "o"))
    assert artifacts.fetch(store, artifact, str(tmp_path)) == store.url_of("out/o")


def test_a_bomb_of_links(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "LINKED", 1000)
    folder = tmp_path / "o"
    folder.mkdir()
    for _ in range(6):  # 61 entries are 10^6 files
        below = folder / "d"
        below.mkdir()
        for number in range(9):
            (folder / f"l{number}").symlink_to("d")
        folder = below
    (folder / "x").touch()
    with pytest.raises(UserError, match="links to folders make more than 1000 files"):
        artifacts.publish(store, "out/o", str(tmp_path / "o"))


def test_a_wide_tree(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "ENTRIES", 10)
    for number in range(11):
        (tmp_path / f"o/{number % 2}").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"o/{number % 2}/{number}").touch()
    with pytest.raises(UserError, match="more than 10 files and folders"):
        artifacts.publish(store, "out/o", str(tmp_path / "o"))


def test_a_long_path(store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "o" / ("a" * 200) / ("b" * 200) / ("é" * 100) / ("c" * 200)
    folder.mkdir(parents=True)
    (folder / ("x" * 96)).touch()
    artifacts.publish(store, "out/o", str(tmp_path / "o"))  # 900 bytes
    folder.mkdir(parents=True)
    (folder / ("x" * 97)).touch()
    with pytest.raises(UserError, match="longer than 900 bytes"):
        artifacts.publish(store, "out/p", str(tmp_path / "o"))


def test_a_long_chain_of_links_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "0").touch()
    for number in range(2000):
        (tmp_path / "o" / str(number + 1)).symlink_to(str(number))
    with pytest.raises(UserError, match="leads nowhere"):
        digests.digest(str(tmp_path / "o"))


def test_a_hard_link_is_a_file_of_its_own(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"1")
    (tmp_path / "outside").chmod(0o640)
    (tmp_path / "o").mkdir()
    for name in ("one", "two"):
        os.link(tmp_path / "outside", tmp_path / "o" / name)
    os.link(tmp_path / "outside", tmp_path / "f")
    tree = artifacts.publish(store, "out/o", str(tmp_path / "o"))
    file = artifacts.publish(store, "out/f", str(tmp_path / "f"))
    assert tree["files"] == 2
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o640
    (tmp_path / "outside").write_bytes(b"2")
    assert artifacts.is_whole(store, tree) and artifacts.is_whole(store, file)


@pytest.mark.parametrize("mode", [0o000, 0o400, 0o500, 0o555, 0o777, 0o1777, 0o2770, 0o200])
def test_odd_modes_of_folders_and_files(store: Store, tmp_path: Path, mode: int) -> None:
    (tmp_path / "o" / "d").mkdir(parents=True)
    (tmp_path / "o" / "d" / "x").write_bytes(b"1")
    (tmp_path / "o" / "l").symlink_to(tmp_path / "o" / "d")  # is made relative
    for name in ("o/d/x", "o/d", "o"):
        (tmp_path / name).chmod(mode & 0o7666 if name.endswith("x") else mode)
    tree = artifacts.publish(store, "out/o", str(tmp_path / "o"))
    path = Path(artifacts.fetch(store, tree, str(tmp_path)))
    assert [stat.S_IMODE((path / name).stat().st_mode) for name in ("", "d", "d/x")] == [0o555, 0o555, 0o444]
    assert os.readlink(path / "l") == "d"


def test_setuid_and_setgid_do_not_survive(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"#!")
    (tmp_path / "f").chmod(0o6755)
    artifacts.publish(store, "out/f", str(tmp_path / "f"))
    assert stat.S_IMODE(os.stat(store.url_of("out/f")).st_mode) == 0o555


def test_the_top_of_a_disk_is_read_without_its_lost_and_found(tmp_path: Path) -> None:
    (tmp_path / "disk" / "sub").mkdir(parents=True)
    (tmp_path / "disk" / "sub" / "lost+found").touch()  # elsewhere it is a name like others
    plain = artifacts.fetch_url(str(tmp_path / "disk"), str(tmp_path))[1]
    (tmp_path / "disk" / "lost+found").mkdir()
    assert artifacts.fetch_url(str(tmp_path / "disk"), str(tmp_path))[1] == plain
    assert digests.digest(str(tmp_path / "disk")) != plain


def test_a_pipe_in_a_file_s_place_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p")
    with pytest.raises(UserError, match="is a pipe"):
        trees.open_file(str(tmp_path / "p"))
    (tmp_path / "l").symlink_to("p")
    with pytest.raises(UserError, match="is a link to p"):
        trees.open_file(str(tmp_path / "l"))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ETIMEDOUT])
def test_a_fault_of_the_disk_is_nobody_s_doing(tmp_path: Path, number: int) -> None:
    assert isinstance(trees.unreadable(str(tmp_path), OSError(number, os.strerror(number))), InfraError)


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.ELOOP, errno.ENAMETOOLONG])
def test_what_a_step_made_unreadable_is_its_doing(tmp_path: Path, number: int) -> None:
    assert isinstance(trees.unreadable(str(tmp_path), OSError(number, os.strerror(number))), UserError)


def test_of_a_link_the_link_is_removed(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").touch()
    (tmp_path / "l").symlink_to("d")
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "l").symlink_to("../d")
    for name in ("l", "o", "none"):
        trees.remove(str(tmp_path / name))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["d", "x"]


def test_what_is_read_only_is_removed_all_the_same(tmp_path: Path) -> None:
    for name in ("o/a/b/c", "o/d", "o/e/f"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "x").touch()
    for path in sorted((tmp_path / "o").rglob("*"), reverse=True):
        path.chmod(0)
    (tmp_path / "o").chmod(0)
    trees.remove(str(tmp_path / "o"))
    assert not (tmp_path / "o").exists()
