"""List the files of a code directory that ship."""

from __future__ import annotations

import heapq
import os
import shutil
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, NamedTuple

from backends import errors
from backends.shipping import ignore

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


IGNORE_FILE = ".zenignore"
MAX_BYTES = 512 * 2**20
MAX_FILES = 100_000
_NEVER = frozenset({".git", ".venv", "__pycache__"})
_SHOWN = 5  # of the biggest


class Entry(NamedTuple):
    """One file or link that ships.

    Args:
        path: relative to the code directory, with ``/`` between its names.
        executable: its owner may execute it.
        size: bytes; 0 for a link.
        link: where a link points, relative to the directory it is in; None for a file.
    """

    path: str
    executable: bool
    size: int
    link: str | None = None


def listing(root: str, *, exclude: Iterable[str] = (), limit: int = MAX_BYTES) -> list[Entry]:
    """Return what ships of a code directory, sorted by path.

    Args:
        root: the code directory.
        exclude: files and directories that stay behind, such as the store; those outside ``root`` don't matter.
        limit: the most bytes that may ship, before compression.

    Raises:
        ConfigError: the directory can't ship: too big, a link that leaves it, a socket or device, an unreadable part, a
            bad ``.zenignore``.
    """
    return list_files(root, exclude, limit)[0]


def configs(root: str) -> list[str]:
    """Return the paths of zen-runner's own configs at the top of a code directory."""
    from backends.config import bounds, document

    found = []
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.endswith((".yaml", ".yml", ".json")) and os.path.isfile(path):
            try:
                with open(path, "rb") as file:
                    text = file.read(bounds.MAX_BYTES + 1)
                if b"steps" not in text:
                    continue
                data = document.parse(text, name).data
            except (OSError, errors.ConfigError):
                continue  # then it is something else
            if data.get("version") == 1 and isinstance(data.get("steps"), dict):
                found.append(path)
    return found


# ----------------------------------------------------------------------------------------------------- what ships
def list_files(root: str, exclude: Iterable[str], limit: int) -> tuple[list[Entry], list[str], str]:
    """Return the entries, the warnings, and who decided what stays behind."""
    root = os.path.realpath(root)
    if not os.path.isdir(root):
        raise errors.ConfigError(f"{root}: the code directory is not there; `code: null` where there is none")
    left_out = {os.path.relpath(os.path.realpath(path), root) for path in exclude}
    if "." in left_out:
        raise errors.ConfigError(f"{root} is both the code directory and the store; give `store` a directory of its own")

    warnings: list[str] = []
    paths: Iterable[str]
    if os.path.lexists(os.path.join(root, IGNORE_FILE)):
        ignored_by, paths = IGNORE_FILE, walk(root, _read_rules(root), left_out)
    elif (listed := _git_files(root, warnings)) is not None:
        ignored_by = "git"
        left_out |= {os.path.dirname(path) for path in listed if os.path.basename(path) == "pyvenv.cfg"} - {""}
        paths = (path for path in listed if not _never_ships(path, left_out))
    else:
        ignored_by, paths = "nothing", walk(root, [], left_out)

    if ignored_by == "git" and not listed and any(True for _ in walk(root, [], left_out)):
        raise errors.ConfigError(
            f"{root}: git ignores all of it, so nothing would ship; write a {IGNORE_FILE} there, which decides alone "
            "(an empty one ships everything)"
        )

    entries: list[Entry] = []
    problems: list[errors.Problem] = []
    for path in paths:
        try:
            entry = _entry(root, path)
        except ValueError as error:
            problems.append(errors.Problem(root, path, f"{error}, or name it in {IGNORE_FILE}"))
            continue
        if entry is not None:
            entries.append(entry)
        if len(entries) > MAX_FILES:
            raise errors.ConfigError(_too_big(root, entries, f"more than {MAX_FILES:,} files"))
    if problems:
        raise errors.ConfigError(problems)
    total = sum(entry.size for entry in entries)
    if total > limit:
        raise errors.ConfigError(_too_big(root, entries, f"{mib(total)}, where {mib(limit)} is the most"))
    entries.sort()
    return entries, warnings + _dangling(entries), ignored_by


def _never_ships(path: str, left_out: set[str]) -> bool:
    parts = path.split("/")
    return (
        path.endswith(".pyc")
        or not _NEVER.isdisjoint(parts)
        or any("/".join(parts[:length]) in left_out for length in range(1, len(parts) + 1))
    )


def _read_rules(root: str) -> list[ignore.Rule]:
    path = os.path.join(root, IGNORE_FILE)
    try:
        with open(path, encoding="utf-8") as file:
            return ignore.parse(file.read(), path)
    except (OSError, UnicodeDecodeError) as error:
        raise errors.ConfigError(f"{path}: can't be read: {error}") from error


def walk(root: str, rules: list[ignore.Rule], left_out: set[str]) -> Iterator[str]:
    """Yield the paths of all files and links below ``root``, without what is ignored and without going in there."""
    waiting = [""]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(os.path.join(root, directory)) as scan:
                found = list(scan)
        except OSError as error:
            raise errors.ConfigError(
                f"{os.path.join(root, directory).rstrip('/')}: can't be read ({error.strerror}); make it readable, or name it "
                f"in {IGNORE_FILE}"
            ) from error
        if directory and any(item.name == "pyvenv.cfg" for item in found):
            continue  # a virtual environment, whatever it is called: it works on this machine alone
        for item in found:
            path = f"{directory}{item.name}"
            is_directory = item.is_dir(follow_symlinks=False)
            if _never_ships(path, left_out) or ignore.is_ignored(rules, path, is_directory):
                continue
            if is_directory:
                waiting.append(f"{path}/")
            else:
                yield path


def _git_files(root: str, warnings: list[str]) -> list[str] | None:
    """Return the paths that git tracks or would track, or None where git has no say."""
    above = root
    while not os.path.lexists(os.path.join(above, ".git")):
        if above == os.path.dirname(above):
            return None
        above = os.path.dirname(above)
    git = shutil.which("git")
    if git is None:
        warnings.append(f"{above} is a git checkout, but there is no git here to say what it ignores: everything ships")
        return None
    # Variables as git sets them for its hooks would point it at another repository than the one around `root`.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        [git, "-C", root, "-c", "core.fsmonitor=false", "ls-files", "-co", "--exclude-standard", "-z"],
        env={**environ, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode(errors="replace").strip()
    if done.returncode:
        if "not a git repository" in said or "must be run in a work tree" in said:
            return None
        raise errors.ConfigError(
            f"{root}: git can't say what it ignores: {said}\nMend that, or write a {IGNORE_FILE}, which decides alone."
        )
    paths: list[str] = []
    for name in dict.fromkeys(os.fsdecode(done.stdout).split("\0")):
        path = name.rstrip("/")
        inside = os.path.join(root, path)
        if not path:
            continue
        if os.path.islink(inside) or not os.path.isdir(inside):
            paths.append(path)
        elif os.path.lexists(os.path.join(inside, ".git")):  # a repository in the repository has rules of its own
            paths += (f"{path}/{below}" for below in _git_files(inside, warnings) or [])
        else:
            warnings.append(f"{path}: a git submodule that is not checked out; nothing of it ships")
    return paths


def _entry(root: str, path: str) -> Entry | None:
    """Return what ships for a path, None if it is gone; ValueError says why it can't ship."""
    whole = os.path.join(root, path)
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ValueError(f"the name {os.fsencode(path)!r} is not UTF-8; rename it") from None
    try:
        status = os.lstat(whole)
    except (FileNotFoundError, NotADirectoryError):
        return None  # tracked by git and deleted, or gone since it was listed
    if stat.S_ISREG(status.st_mode):
        return Entry(path, bool(status.st_mode & stat.S_IXUSR), status.st_size)
    if not stat.S_ISLNK(status.st_mode):
        raise ValueError("neither a file nor a directory nor a link, so it can't ship; remove it")
    try:
        os.stat(whole)
    except FileNotFoundError:
        pass  # points to nothing, which is allowed
    except OSError as error:
        raise ValueError(f"the link can't be followed ({error.strerror}); mend it") from None
    target = os.path.realpath(whole)
    if target != root and not target.startswith(f"{root.rstrip('/')}/"):
        raise ValueError(f"the link points out of the code directory, to {target}; put a copy in its place")
    return Entry(path, False, 0, os.path.relpath(target, os.path.dirname(whole)))


def _dangling(entries: list[Entry]) -> list[str]:
    shipped = {"."}
    for entry in entries:
        shipped.update(upwards(entry.path))
    return [
        f"{entry.path}: a link to {target}, which does not ship"
        for entry in entries
        if entry.link is not None
        and (target := os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.link))) not in shipped
    ]


def shadows(entries: list[Entry]) -> list[str]:
    """Return a warning for each module at the top of the code that hides one of the standard library's."""
    found = []
    for entry in entries:
        module, end, rest = entry.path.removesuffix("/__init__.py").partition(".")
        if module in sys.stdlib_module_names and (end + rest == ".py" or entry.path == f"{module}/__init__.py"):
            found.append(f"{entry.path}: hides the standard library's module {module!r} from every step; rename it")
    return found


def biggest_entries(entries: list[Entry]) -> list[Entry]:
    return heapq.nlargest(_SHOWN, entries, key=lambda entry: entry.size)


def _too_big(root: str, entries: list[Entry], how_much: str) -> str:
    directories: dict[str, int] = {}
    for entry in entries:
        top, slash, _ = entry.path.partition("/")
        if slash:
            directories[f"{top}/"] = directories.get(f"{top}/", 0) + entry.size
    biggest = sorted(directories.items(), key=lambda item: -item[1])[:_SHOWN]
    biggest += [(entry.path, entry.size) for entry in biggest_entries(entries)]
    return (
        f"{root}: too much code to ship: {how_much}. The biggest: "
        f"{', '.join(f'{path} ({mib(size)})' for path, size in biggest)}. "
        f"Name what is not code in {IGNORE_FILE} there, in the syntax of .gitignore."
    )


def mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def upwards(path: str) -> Iterator[str]:
    """Yield a path and the directories it is in."""
    while path:
        yield path
        path = os.path.dirname(path)
