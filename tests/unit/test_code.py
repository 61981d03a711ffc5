"""What ships of a code directory, its digest, and the archive, on real trees with the real git."""

from __future__ import annotations

import gzip
import io
import json
import os
import random
import shutil
import socket
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest

from backends import errors
from backends.shipping import ignore, listing
from backends.shipping.archive import digest, pack, unpack
from tests.support import running

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="no git here")


def tree(root: Path, *paths: str) -> Path:
    """Make files, each holding its own path; one that ends in ``*`` is executable."""
    for path in paths:
        file = root / path.rstrip("*")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path.rstrip("*"))
        file.chmod(0o755 if path.endswith("*") else 0o644)
    return root


def git(root: Path, *arguments: str) -> str:
    """Run git without the caller's own configuration."""
    identity = [f"-c{key}" for key in ("user.name=t", "user.email=t@example.org", "init.defaultBranch=main")]
    environ = {"PATH": os.environ["PATH"], "HOME": str(root), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *[part for item in identity for part in (item[:2], item[2:])], *arguments],
        cwd=root,
        env=environ,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def paths(root: Path, **options: Any) -> list[str]:
    return [entry.path for entry in listing.listing(str(root), **options)]


# ------------------------------------------------------------------------------------------------------------- listing


def test_everything_ships_where_nothing_decides_and_what_never_ships_does_not(tmp_path: Path) -> None:
    tree(tmp_path, "b.py", "a/x.py", "run.sh*", ".hidden", "a/__pycache__/x.cpython-311.pyc", "old.pyc", ".venv/bin/python")
    tree(tmp_path, "env/pyvenv.cfg", "env/lib/huge.so", "runs/p-1/run.json", "runs2/kept")
    (tmp_path / "empty").mkdir()
    entries = listing.listing(str(tmp_path), exclude=[str(tmp_path / "runs")])
    assert entries == [
        (".hidden", False, 7, None),
        ("a/x.py", False, 6, None),
        ("b.py", False, 4, None),
        ("run.sh", True, 6, None),
        ("runs2/kept", False, 10, None),
    ]
    assert pack(str(tmp_path), str(tmp_path / "out.tar.gz"))["ignored_by"] == "nothing"


@needs_git
@pytest.mark.processes
def test_git_decides_in_a_work_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    git(tmp_path, "init", "-q")
    tree(tmp_path, "job/tracked.py", "job/gone.py", "job/forced.log", "elsewhere.py", "job/.venv2/pyvenv.cfg", "job/.venv2/x")
    git(tmp_path, "add", "-f", ".")
    tree(tmp_path, "job/new é.py", "job/secret.env", "job/debug.log", ".gitignore", "job/__pycache__/x.pyc", "job/runs/r")
    (tmp_path / ".gitignore").write_text("*.log\n*.env\n")
    (tmp_path / "job/gone.py").unlink()
    # As in a hook of another repository, where git sets variables that point to it.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    job = tmp_path / "job"
    assert paths(job, exclude=[str(job / "runs")]) == ["forced.log", "new é.py", "tracked.py"]
    assert pack(str(job), str(tmp_path / "a.tar.gz"))["ignored_by"] == "git"


@needs_git
@pytest.mark.processes
def test_a_repository_in_the_repository_ships_by_its_own_rules(tmp_path: Path) -> None:
    for root in (tmp_path, tmp_path / "inner"):
        root.mkdir(exist_ok=True)
        git(root, "init", "-q")
    tree(tmp_path, "outer.py", "inner/kept.py", "inner/left.tmp")
    (tmp_path / "inner/.gitignore").write_text("*.tmp\n")
    assert paths(tmp_path) == ["inner/.gitignore", "inner/kept.py", "outer.py"]
    # A submodule that is not checked out is an empty directory that git tracks as a commit.
    git(tmp_path, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},missing")
    (tmp_path / "missing").mkdir()
    receipt = pack(str(tmp_path), str(tmp_path / "a.tar.gz"))
    assert receipt["warnings"] == ["missing: a git submodule that is not checked out; nothing of it ships"]
    assert receipt["files"] == 3


@needs_git
@pytest.mark.processes
def test_a_directory_that_git_ignores_whole_is_an_error_and_not_an_empty_archive(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("build/\n")
    tree(tmp_path, "build/job.py")
    with pytest.raises(errors.ConfigError, match=r"git ignores all of it.*\.zenignore"):
        listing.listing(str(tmp_path / "build"))
    (tmp_path / "build/.zenignore").write_text("")
    assert paths(tmp_path / "build") == [".zenignore", "job.py"]


@needs_git
@pytest.mark.processes
def test_what_git_says_against_it_reaches_the_user(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / ".git/config").write_text("[core\n")
    with pytest.raises(errors.ConfigError, match=r"bad config[\s\S]*\.zenignore"):
        listing.listing(str(tmp_path))


def test_a_checkout_without_git_ships_whole_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree(tmp_path, ".git/HEAD", "job/x.py")
    monkeypatch.setenv("PATH", str(tmp_path))
    receipt = pack(str(tmp_path / "job"), str(tmp_path / "a.tar.gz"))
    assert (receipt["ignored_by"], receipt["files"]) == ("nothing", 1)
    assert "no git here" in receipt["warnings"][0]


@needs_git
@pytest.mark.processes
def test_zenignore_decides_alone(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    tree(tmp_path, "kept.log", "data/a.csv", "data/keep.csv", "src/b.py", "deep/data/c.csv")
    (tmp_path / ".gitignore").write_text("*.log\n")
    (tmp_path / ".zenignore").write_text("/data/*\n!/data/keep.csv\n.gitignore\n.zenignore\n")
    assert paths(tmp_path) == ["data/keep.csv", "deep/data/c.csv", "kept.log", "src/b.py"]


def test_a_bad_zenignore_is_told_line_by_line(tmp_path: Path) -> None:
    (tmp_path / ".zenignore").write_text("fine\n[oops\nx[[:alpha:]]\nback\\\n")
    with pytest.raises(errors.ConfigError) as caught:
        listing.listing(str(tmp_path))
    assert [(problem.where.rpartition("/")[2], problem.message) for problem in caught.value.problems] == [
        (".zenignore:2", "'[oops' is not a pattern: its '[' is never closed; write '\\[' for the character"),
        (
            ".zenignore:3",
            "'x[[:alpha:]]' is not a pattern: named character classes are not known here; write the range, such as [a-z]",
        ),
        (".zenignore:4", "'back\\\\' is not a pattern: nothing follows its last backslash"),
    ]
    (tmp_path / ".zenignore").write_bytes(b"\xff\xfe")
    with pytest.raises(errors.ConfigError, match="can't be read"):
        listing.listing(str(tmp_path))


ATOMS = (
    *("a", "b", "foo", "*.log", "f", "*", "**", "?", "x*", "[ab]", "[!f]", ".h", "\\#c", "y z", "y\\ z", "fo?", ".*", "*o"),
    *("[]a]", "[a-f]", "[^a]o", "fo[no]", "**o", "\\a", "a*b", "***", "[!a-c]", "[a\\]]", "[a^]*", "f[o-]?"),
)


def pattern(draw: random.Random) -> str:
    line = "/".join(draw.choice(ATOMS) for _ in range(draw.choice([1, 1, 2, 2, 3])))
    line = ("/" if draw.random() < 0.25 else "") + line + ("/" if draw.random() < 0.25 else "")
    line = ("!" if draw.random() < 0.35 else "") + line + ("  " if draw.random() < 0.05 else "")
    return ("#" if draw.random() < 0.05 else "") + line


@needs_git
@pytest.mark.processes
def test_patterns_match_as_git_matches_them(tmp_path: Path) -> None:
    work = tmp_path / "work"
    for folder in ("", "a/", "b/", "foo/", "a/b/", "foo/a/", "a/foo/b/", "b/b/"):
        tree(work, *(folder + name for name in ("f", "x.log", ".h", "#c", "y z")))
    git(work, "init", "-q")
    for seed in range(150):
        draw = random.Random(seed)  # noqa: S311
        text = "\n".join(pattern(draw) for _ in range(draw.choice([1, 2, 3, 4])))
        (tmp_path / "rules").write_text(text + "\n")
        expected = set(git(work, "ls-files", "-o", "-z", "-X", "../rules").split("\0")) - {""}
        assert set(listing.walk(str(work), ignore.parse(text, "rules"), set())) == expected, (seed, text)


# ------------------------------------------------------------------------------------------------------- links, specials


def test_links_ship_as_links_to_where_they_lead(tmp_path: Path) -> None:
    tree(tmp_path, "pkg/mod.py", "data/big.csv")
    (tmp_path / "one.py").symlink_to("pkg/mod.py")
    (tmp_path / "pkg/two.py").symlink_to(tmp_path / "one.py")  # absolute, and through another link
    (tmp_path / "pkg/up").symlink_to("..")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "folder").symlink_to("data")
    (tmp_path / ".zenignore").write_text("data\n.zenignore\n")
    links = {entry.path: entry.link for entry in listing.listing(str(tmp_path)) if entry.link is not None}
    assert links == {"folder": "data", "nowhere": "missing", "one.py": "pkg/mod.py", "pkg/two.py": "mod.py", "pkg/up": ".."}

    out = tmp_path / "out"
    out.mkdir()
    receipt = pack(str(tmp_path), str(out / "a.tar.gz"), exclude=[str(out)])
    assert receipt["warnings"] == [
        "folder: a link to data, which does not ship",
        "nowhere: a link to missing, which does not ship",
    ]
    at = Path(unpack(str(out / "a.tar.gz"), receipt["sha256"], str(out)))
    assert (at / "pkg/two.py").read_text() == "pkg/mod.py"
    assert (at / "pkg/up").resolve() == at


def test_what_cannot_ship_is_told_in_one_pass(tmp_path: Path) -> None:
    root = tree(tmp_path / "job", "fine.py")
    (root / "out").symlink_to(tmp_path)
    (root / "sibling").symlink_to("../job2")  # begins like the root's own name
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(root / "socket"))
    Path(os.fsdecode(os.fsencode(root / "caf") + b"\xe9")).write_text("")
    try:
        with pytest.raises(errors.ConfigError) as caught:
            listing.listing(str(root))
    finally:
        listening.close()
    said = {problem.path: problem.message for problem in caught.value.problems}
    assert set(said) == {"out", "sibling", "loop", "caf\udce9"}  # a pipe and a socket are left behind
    assert "points out of the code directory" in said["out"] and "points out" in said["sibling"]
    assert "can't be followed" in said["loop"]
    assert "not UTF-8" in said["caf\udce9"]
    assert all(".zenignore" in message for message in said.values())
    (root / ".zenignore").write_text("out\nsibling\nloop\ncaf*\n")
    assert paths(root) == [".zenignore", "fine.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("part", ["secret.txt", "folder"])
def test_an_unreadable_part_is_named(tmp_path: Path, part: str) -> None:
    tree(tmp_path, "secret.txt", "folder/x")
    (tmp_path / part).chmod(0)
    try:
        with pytest.raises(errors.ConfigError, match=f"{part}: can't be read"):
            digest(str(tmp_path))
    finally:
        (tmp_path / part).chmod(0o700)


def test_too_much_code_names_the_biggest(tmp_path: Path) -> None:
    tree(tmp_path, "small.py")
    (tmp_path / "data").mkdir()
    for name, mib in (("a.bin", 3), ("b.bin", 2)):
        with open(tmp_path / "data" / name, "wb") as file:
            file.truncate(mib * 2**20)
    with pytest.raises(errors.ConfigError) as caught:
        listing.listing(str(tmp_path), limit=4 * 2**20)
    message = str(caught.value)
    assert "5.0 MiB, where 4.0 MiB is the most" in message
    assert "data/ (5.0 MiB), data/a.bin (3.0 MiB), data/b.bin (2.0 MiB)" in message
    assert ".zenignore" in message


def test_too_many_files_stop_the_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_FILES", 3)
    tree(tmp_path, *(f"f{number}" for number in range(5)))
    with pytest.raises(errors.ConfigError, match="more than 3 files"):
        listing.listing(str(tmp_path))


def test_a_root_that_is_no_directory_or_is_the_store(tmp_path: Path) -> None:
    with pytest.raises(errors.ConfigError, match="not there"):
        listing.listing(str(tmp_path / "missing"))
    with pytest.raises(errors.ConfigError, match="both the code directory and the store"):
        listing.listing(str(tmp_path), exclude=[str(tmp_path)])


# ------------------------------------------------------------------------------------------------------- digest, archive


def test_the_digest_is_of_what_ships_and_nothing_else(tmp_path: Path) -> None:
    first = tree(tmp_path / "one", "a.py", "b/c.py")
    second = tree(tmp_path / "two", "b/c.py", "a.py")
    before = digest(str(first))
    assert before.startswith("sha256:") and len(before) == 71
    os.utime(second / "a.py", (1, 1))
    (second / "a.py").chmod(0o600)
    tree(second, "__pycache__/a.pyc")
    assert digest(str(second)) == before

    seen = {before}
    (second / "a.py").chmod(0o700)
    seen.add(digest(str(second)))
    (second / "a.py").write_text("b.py")
    seen.add(digest(str(second)))
    (second / "a.py").rename(second / "d.py")
    seen.add(digest(str(second)))
    (second / "e.py").symlink_to("d.py")
    seen.add(digest(str(second)))
    (second / "e.py").unlink()
    (second / "e.py").write_text("d.py")
    seen.add(digest(str(second)))
    assert len(seen) == 6


def test_the_archive_is_reproducible_and_comes_back_whole(tmp_path: Path) -> None:
    first = tree(tmp_path / "one", "z.py", "a/run.sh*", "a/" + "long-name/" * 20 + "ü.txt")
    second = tmp_path / "two"
    shutil.copytree(first, second)
    for path in second.rglob("*"):
        os.utime(path, (5, 5))
    one = pack(str(first), str(tmp_path / "1.tar.gz"))
    two = pack(str(second), str(tmp_path / "2.tar.gz"))
    assert one == two
    assert (tmp_path / "1.tar.gz").read_bytes() == (tmp_path / "2.tar.gz").read_bytes()
    assert json.loads(json.dumps(one)) == one
    assert one["files"] == 3 and one["bytes"] == sum(entry["bytes"] for entry in one["largest"])
    assert one["largest"][0]["path"].endswith("ü.txt")

    mask = os.umask(0o077)
    try:
        at = unpack(str(tmp_path / "1.tar.gz"), one["sha256"], str(tmp_path / "new" / "code"))
    finally:
        os.umask(mask)
    assert at == str(tmp_path / "new" / "code" / one["sha256"])
    assert digest(at) == digest(str(first))
    # Whatever the umask, another user id can read it; nothing is from before what a zip file can hold.
    modes = {path.stat().st_mode & 0o777 for path in [Path(at), *Path(at).rglob("*")]}
    assert modes == {0o755, 0o644}
    assert all(path.stat().st_mtime > 315532800 for path in Path(at).rglob("*"))
    assert [path.name for path in (tmp_path / "new" / "code").iterdir()] == [one["sha256"]]


def test_what_is_unpacked_already_is_used_as_it_is(tmp_path: Path) -> None:
    receipt = pack(str(tree(tmp_path / "job", "a.py")), str(tmp_path / "a.tar.gz"))
    at = unpack(str(tmp_path / "a.tar.gz"), receipt["sha256"], str(tmp_path))
    (Path(at) / "a.py").write_text("mark")
    (tmp_path / "a.tar.gz").unlink()
    assert unpack(str(tmp_path / "a.tar.gz"), receipt["sha256"], str(tmp_path)) == at
    assert (Path(at) / "a.py").read_text() == "mark"


def test_of_two_that_unpack_at_once_both_get_a_whole_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = str(tmp_path / "a.tar.gz")
    receipt = pack(str(tree(tmp_path / "job", "a.py", "b.py")), archive)
    real = os.rename

    def late(source: str, target: str) -> None:
        monkeypatch.setattr(os, "rename", real)
        assert unpack(archive, receipt["sha256"], str(tmp_path / "to")) == target  # the quicker one
        real(source, target)

    monkeypatch.setattr(os, "rename", late)
    at = Path(unpack(archive, receipt["sha256"], str(tmp_path / "to")))
    assert sorted(path.name for path in at.iterdir()) == ["a.py", "b.py"]
    assert list((tmp_path / "to").iterdir()) == [at]


def test_another_archive_than_the_named_one_is_refused(tmp_path: Path) -> None:
    pack(str(tree(tmp_path / "job", "a.py")), str(tmp_path / "a.tar.gz"))
    with pytest.raises(errors.InputError, match="its sha256 is"):
        unpack(str(tmp_path / "a.tar.gz"), "0" * 64, str(tmp_path / "to"))
    assert not (tmp_path / "to").exists()


def test_an_archive_or_a_place_that_cannot_be_had_is_infra(tmp_path: Path) -> None:
    receipt = pack(str(tree(tmp_path / "job", "a.py")), str(tmp_path / "a.tar.gz"))
    with pytest.raises(errors.InfraError, match="can't be unpacked"):
        unpack(str(tmp_path / "missing.tar.gz"), receipt["sha256"], str(tmp_path / "to"))
    with pytest.raises(errors.InfraError, match="can't be unpacked"):
        unpack(str(tmp_path / "a.tar.gz"), receipt["sha256"], str(tmp_path / "job/a.py/to"))
    with pytest.raises(errors.InfraError, match="can't be written"):
        pack(str(tmp_path / "job"), str(tmp_path / "no" / "such" / "a.tar.gz"))


def member(name: str, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def link(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=to)


@pytest.mark.parametrize(
    "members",
    [
        [member("../evil", b"x")],
        [member("/tmp/evil", b"x")],
        [member("a/../../evil", b"x")],
        [member("./a", b"x")],
        [link("l", "/etc/passwd")],
        [link("l", "../outside")],
        [link("a/l", "../../outside")],
        [link("d", "."), link("l", "d/../../outside")],
        [link("d", "sub"), link("l", "d")],
        [link("d", "sub"), link("l", "d/x")],
        [link("d", ".."), member("d/evil", b"x")],
        [link("d", "sub"), member("d/evil", b"x")],
        [link("hard", "/etc/passwd", tarfile.LNKTYPE)],
        [member("dev", type=tarfile.CHRTYPE, devmajor=1, devminor=3)],
        [member("fifo", type=tarfile.FIFOTYPE)],
        [member("sparse", type=tarfile.GNUTYPE_SPARSE)],
        [member("a", b"1"), member("a", b"2")],
        [member("a", b"1"), member("a/b", b"2")],
        [member("bomb", bytes(3 * 2**20))],
        [member(f"f{number}") for number in range(40)],
    ],
    ids=lambda members: "+".join(info.name for info, _ in members[:3]),
)
def test_what_pack_never_writes_is_refused_and_leaves_nothing(
    tmp_path: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as out:
        for info, content in members:
            out.addfile(info, io.BytesIO(content))
    with pytest.raises(errors.InputError, match="may be unpacked"):
        unpack(str(archive), sha256(archive), str(tmp_path / "to"), max_files=30, max_bytes=2**20)
    assert list((tmp_path / "to").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "to"]


def test_a_bomb_in_a_header_is_bounded_too(tmp_path: Path) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 64 * 2**20
    archive = tmp_path / "a.tar.gz"
    with gzip.open(archive, "wb") as out:
        out.write(header.tobuf())
        for _ in range(64):
            out.write(bytes(2**20))
    with pytest.raises(errors.InputError, match=r"more than 1\.0 MiB"):
        unpack(str(archive), sha256(archive), str(tmp_path / "to"), max_bytes=2**20)


@pytest.mark.parametrize("damage", ["not gzip", "cut", "garbled"])
def test_a_damaged_archive_is_an_input_error(tmp_path: Path, damage: str) -> None:
    archive = tmp_path / "a.tar.gz"
    job = tree(tmp_path / "job", "a.py")
    (job / "noise").write_bytes(random.Random(1).randbytes(100_000))  # noqa: S311
    pack(str(job), str(archive))
    whole = archive.read_bytes()
    archive.write_bytes({"not gzip": b"hello", "cut": whole[:50_000], "garbled": whole[:10] + bytes(9) + whole[19:]}[damage])
    with pytest.raises(errors.InputError, match="may be unpacked"):
        unpack(str(archive), sha256(archive), str(tmp_path / "to"))


def test_modules_that_hide_the_standard_librarys_are_warned_of(tmp_path: Path) -> None:
    tree(tmp_path / "job", "queue.py", "email/__init__.py", "json/notes.txt", "pkg/code.py", "mine.py", "random", "sys.cfg")
    receipt = pack(str(tmp_path / "job"), str(tmp_path / "a.tar.gz"))
    assert [warning.partition(":")[0] for warning in receipt["warnings"]] == ["email/__init__.py", "queue.py"]


def test_the_shipped_example_is_small_and_packs_alike_from_a_copy(tmp_path: Path) -> None:
    example = tmp_path / "penguins"
    shutil.copytree(running.ROOT / "examples/penguins", example, ignore=shutil.ignore_patterns("__pycache__", "runs", ".*"))
    receipt = pack(str(example), str(tmp_path / "a.tar.gz"))
    assert receipt["largest"][0]["path"] == "data/penguins.csv"
    assert receipt["bytes"] < 60_000 and receipt["warnings"] == []


def sha256(path: Path) -> str:
    from hashlib import sha256 as new

    return new(path.read_bytes()).hexdigest()
