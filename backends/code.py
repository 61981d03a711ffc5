"""The user's code as it ships: what goes along, its digest, and the archive that carries it where there is no checkout.

What goes along is decided by ``.zenignore`` alone where the code directory has one (the syntax is gitignore's), else by
git's own rules in a git work tree, else it is everything. Never along: ``.git``, virtual environments, compiled Python,
and what the caller excludes. Links stay links as long as they stay in the tree; empty directories are not kept.

Archive: tar in gzip, entries sorted by path, modification time 0, owner 0, mode 0644 or 0755. The bytes are the same as
long as zlib compresses alike; where only the contents matter, as in a cache key, use ``digest``.
"""

from __future__ import annotations

import gzip
import hashlib
import heapq
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backends import errors, ignore, wire

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import IO

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
    return _list(root, exclude, limit)[0]


def configs(root: str) -> list[str]:
    """Return the paths of zen-runner's own configs at the top of a code directory."""
    from backends import document

    found = []
    for name in sorted(os.listdir(root)):
        path = os.path.join(root, name)
        if name.endswith((".yaml", ".yml", ".json")) and os.path.isfile(path):
            try:
                with open(path, "rb") as file:
                    text = file.read(document.MAX_BYTES + 1)
                if b"steps" not in text:
                    continue
                data = document.parse(text, name).data
            except (OSError, errors.ConfigError):
                continue  # then it is something else
            if data.get("version") == 1 and isinstance(data.get("steps"), dict):
                found.append(path)
    return found


def digest(root: str, *, exclude: Iterable[str] = (), limit: int = MAX_BYTES) -> str:
    """Return the digest of what ships, such as ``sha256:9f86d0…``, the same wherever the same files lie.

    Args, Raises: as for ``listing``.
    """
    root = os.path.realpath(root)
    total = hashlib.sha256(b"zen-runner code 1\n")
    for entry in _list(root, exclude, limit)[0]:
        content = entry.link
        if content is None:
            with _open(root, entry) as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(wire.dumps([entry.path, entry.executable, entry.link is not None, content]).encode() + b"\n")
    return f"sha256:{total.hexdigest()}"


def pack(root: str, out_path: str, *, exclude: Iterable[str] = (), limit: int = MAX_BYTES) -> dict[str, Any]:
    """Write a code directory as an archive and return the receipt of what is in it.

    Args:
        root, exclude, limit: as for ``listing``.
        out_path: the archive's file, made or overwritten.

    Returns:
        ``sha256`` (of the archive, 64 hexadecimal digits), ``files``, ``bytes`` (before compression), ``largest`` (the
        biggest files, each ``path`` and ``bytes``), ``ignored_by`` (``.zenignore``, ``git`` or ``nothing``) and
        ``warnings`` for people.

    Raises:
        ConfigError: as for ``listing``.
        InfraError: the archive can't be written.
    """
    root = os.path.realpath(root)
    entries, warnings, ignored_by = _list(root, [*exclude, out_path], limit)
    try:
        with (
            open(out_path, "wb") as out,
            gzip.GzipFile("", "wb", compresslevel=6, fileobj=out, mtime=0) as zipped,
            tarfile.open(mode="w", fileobj=zipped, format=tarfile.PAX_FORMAT, encoding="utf-8") as archive,
        ):
            for entry in entries:
                member = tarfile.TarInfo(entry.path)
                member.mode = 0o755 if entry.executable else 0o644
                if entry.link is not None:
                    member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
                    archive.addfile(member)
                else:
                    with _open(root, entry) as file:
                        member.size = os.fstat(file.fileno()).st_size
                        archive.addfile(member, file)
        with open(out_path, "rb") as written:
            sha256 = hashlib.file_digest(written, "sha256").hexdigest()
    except OSError as error:
        raise errors.InfraError(
            f"the archive of the code in {root} can't be written to {out_path}: {error}; make room there, and let "
            "nothing write into the code meanwhile"
        ) from error
    return {
        "sha256": sha256,
        "files": len(entries),
        "bytes": sum(entry.size for entry in entries),
        "largest": [{"path": entry.path, "bytes": entry.size} for entry in _biggest(entries)],
        "warnings": warnings + _shadows(entries),
        "ignored_by": ignored_by,
    }


def unpack(archive: str, sha256: str, dest_parent: str, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES * 2) -> str:
    """Unpack an archive that ``pack`` wrote and return where: ``<dest_parent>/<sha256>``, used again once it is there.

    Args:
        archive: the archive's file.
        sha256: what the archive has to be, 64 hexadecimal digits.
        dest_parent: made if missing. Whoever can write it decides what code runs.
        max_files: the most entries.
        max_bytes: the most bytes that it may decompress to.

    Raises:
        InputError: it is not that archive, or not one of ours: bigger than allowed, a path or link that leaves the
            directory, a device.
        InfraError: the directory can't be written.
    """
    target = os.path.join(dest_parent, sha256)
    if os.path.isdir(target):
        return target
    temporary = None
    try:
        with open(archive, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != sha256:
                raise errors.InputError(f"{archive}: its sha256 is {found}, not {sha256}; pack and upload the code again")
            os.makedirs(dest_parent, exist_ok=True)
            temporary = tempfile.mkdtemp(prefix=f".{sha256[:16]}.", dir=dest_parent)
            file.seek(0)
            try:
                _extract(_Bounded(gzip.GzipFile(fileobj=file), max_bytes), temporary, max_files)
            except (FileExistsError, NotADirectoryError) as error:
                raise _Refused(f"{error.filename} is in it twice") from error
        for directory, _, _ in os.walk(temporary):
            os.chmod(directory, 0o755)  # whatever the umask: the step may have another user id than we
        try:
            os.rename(temporary, target)
        except OSError:
            if not os.path.isdir(target):
                raise
        return target  # ours, or that of another process that was quicker
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, _Refused) as error:
        raise errors.InputError(f"{archive}: not an archive of code that may be unpacked: {error}") from error
    except OSError as error:
        raise errors.InfraError(f"code can't be unpacked from {archive} into {dest_parent}: {error}") from error
    finally:
        if temporary:
            shutil.rmtree(temporary, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------- what ships


def _list(root: str, exclude: Iterable[str], limit: int) -> tuple[list[Entry], list[str], str]:
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
        ignored_by, paths = IGNORE_FILE, _walk(root, _read_rules(root), left_out)
    elif (listed := _git_files(root, warnings)) is not None:
        ignored_by = "git"
        left_out |= {os.path.dirname(path) for path in listed if os.path.basename(path) == "pyvenv.cfg"} - {""}
        paths = (path for path in listed if not _never_ships(path, left_out))
    else:
        ignored_by, paths = "nothing", _walk(root, [], left_out)

    if ignored_by == "git" and not listed and any(True for _ in _walk(root, [], left_out)):
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
        raise errors.ConfigError(_too_big(root, entries, f"{_mib(total)}, where {_mib(limit)} is the most"))
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


def _walk(root: str, rules: list[ignore.Rule], left_out: set[str]) -> Iterator[str]:
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
        shipped.update(_upwards(entry.path))
    return [
        f"{entry.path}: a link to {target}, which does not ship"
        for entry in entries
        if entry.link is not None
        and (target := os.path.normpath(os.path.join(os.path.dirname(entry.path), entry.link))) not in shipped
    ]


def _shadows(entries: list[Entry]) -> list[str]:
    """Return a warning for each module at the top of the code that hides one of the standard library's."""
    found = []
    for entry in entries:
        module, end, rest = entry.path.removesuffix("/__init__.py").partition(".")
        if module in sys.stdlib_module_names and (end + rest == ".py" or entry.path == f"{module}/__init__.py"):
            found.append(f"{entry.path}: hides the standard library's module {module!r} from every step; rename it")
    return found


def _biggest(entries: list[Entry]) -> list[Entry]:
    return heapq.nlargest(_SHOWN, entries, key=lambda entry: entry.size)


def _too_big(root: str, entries: list[Entry], how_much: str) -> str:
    directories: dict[str, int] = {}
    for entry in entries:
        top, slash, _ = entry.path.partition("/")
        if slash:
            directories[f"{top}/"] = directories.get(f"{top}/", 0) + entry.size
    biggest = sorted(directories.items(), key=lambda item: -item[1])[:_SHOWN]
    biggest += [(entry.path, entry.size) for entry in _biggest(entries)]
    return (
        f"{root}: too much code to ship: {how_much}. The biggest: "
        f"{', '.join(f'{path} ({_mib(size)})' for path, size in biggest)}. "
        f"Name what is not code in {IGNORE_FILE} there, in the syntax of .gitignore."
    )


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"


def _open(root: str, entry: Entry) -> io.BufferedReader:
    path = os.path.join(root, entry.path)
    try:
        return open(path, "rb")
    except OSError as error:
        raise errors.ConfigError(
            f"{path}: can't be read ({error.strerror}); make it readable, or name it in {IGNORE_FILE}"
        ) from error


# ------------------------------------------------------------------------------------------------------- unpacking


class _Refused(Exception):
    """Why an archive is not unpacked."""


class _Bounded:
    """The decompressed archive, and no more of it than allowed."""

    def __init__(self, stream: gzip.GzipFile, limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._read = 0

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._read += len(data)
        if self._read > self._limit:
            raise _Refused(f"it decompresses to more than {_mib(self._limit)}")
        return data


def _extract(stream: _Bounded, directory: str, max_files: int) -> None:
    """Write the archive's files, then its links, so that nothing is ever written through one.

    ``pack`` writes less than ``tarfile``'s data filter lets through, and Python before 3.11.4 has no such filter: what
    ``pack`` never writes is refused here, and no owner, time or mode of the archive counts.
    """
    links: dict[str, str] = {}
    with tarfile.open(fileobj=stream, mode="r|") as archive:  # type: ignore[call-overload]
        for number, member in enumerate(archive, start=1):
            name = member.name
            if number > max_files:
                raise _Refused(f"it has more than {max_files:,} entries")
            if name != os.path.normpath(name) or name in (".", "..") or name.startswith(("/", "../")):
                raise _Refused(f"{name!r} is not a path below the code directory")
            if member.issym():
                links[name] = member.linkname
            elif member.isreg() and not member.issparse():
                _write(os.path.join(directory, name), archive.extractfile(member), bool(member.mode & stat.S_IXUSR))
            else:
                raise _Refused(f"{name} is neither a file nor a link")
    for name, points_to in links.items():
        parent = os.path.dirname(name)
        target = os.path.normpath(os.path.join(parent, points_to))
        # In this form, with `..` at its beginning only and no other link on its way, a link leads where it says.
        plain = points_to == os.path.relpath(f"/{target}", f"/{parent}")
        if not plain or target == ".." or target.startswith("../") or not links.keys().isdisjoint(_upwards(target)):
            raise _Refused(f"the link {name} to {points_to!r} may leave the code directory")
        os.makedirs(os.path.join(directory, parent), exist_ok=True)
        Path(directory, name).symlink_to(points_to)


def _write(path: str, content: IO[bytes] | None, executable: bool) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        shutil.copyfileobj(content or io.BytesIO(), file)
    os.chmod(path, 0o755 if executable else 0o644)


def _upwards(path: str) -> Iterator[str]:
    """Yield a path and the directories it is in."""
    while path:
        yield path
        path = os.path.dirname(path)
