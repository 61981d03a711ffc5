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
import io
import os
import shutil
import stat
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import errors, wire
from backends.shipping.listing import IGNORE_FILE, MAX_BYTES, MAX_FILES, biggest_entries, list_files, mib, shadows, upwards

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import IO

    from backends.shipping.listing import Entry


def digest(root: str, *, exclude: Iterable[str] = (), limit: int = MAX_BYTES) -> str:
    """Return the digest of what ships, such as ``sha256:9f86d0…``, the same wherever the same files lie.

    Args, Raises: as for ``listing``.
    """
    root = os.path.realpath(root)
    total = hashlib.sha256(b"zen-runner code 1\n")
    for entry in list_files(root, exclude, limit)[0]:
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
    entries, warnings, ignored_by = list_files(root, [*exclude, out_path], limit)
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
        "largest": [{"path": entry.path, "bytes": entry.size} for entry in biggest_entries(entries)],
        "warnings": warnings + shadows(entries),
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
            raise _Refused(f"it decompresses to more than {mib(self._limit)}")
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
        if not plain or target == ".." or target.startswith("../") or not links.keys().isdisjoint(upwards(target)):
            raise _Refused(f"the link {name} to {points_to!r} may leave the code directory")
        os.makedirs(os.path.join(directory, parent), exist_ok=True)
        Path(directory, name).symlink_to(points_to)


def _write(path: str, content: IO[bytes] | None, executable: bool) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "xb") as file:
        shutil.copyfileobj(content or io.BytesIO(), file)
    os.chmod(path, 0o755 if executable else 0o644)
