"""What steps hand to each other: files and directories with a digest, published once and verified by each reader.

The digest of a file is the SHA-256 of its bytes. That of a directory is the SHA-256 of its manifest's lines, which hold
for each file its path, whether it may be executed, its size and its own SHA-256; times, owners and the order of walking
don't matter.
"""

from __future__ import annotations

import errno
import os

from backends import wire
from backends.errors import ConfigError, InfraError, InputError, UserError
from backends.files import go_on
from backends.store import open_store, trees, urls
from backends.store.base import BUCKET_SCHEMES, TEMP, Store, each, portable, trouble
from backends.store.digests import describe, file_artifact, hash_blocks, order_key, tree_artifact, tree_digest
from backends.store.local import make_folder
from backends.store.trees import BLOCK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Any

    from backends.store.digests import Artifact, Line


_THREADS = 8
_AGAIN = "make it again, in a new run"
_REHASHED = 64 << 20  # bytes of an artifact in a bucket that are read again to trust it; of a larger one, the sizes
# What a step put in the way of its own output.
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.ENOTDIR)


def publish(store: Store, key: str, path: str, *, check: Callable[[], None] = go_on) -> Artifact:
    """Put a step's output into the store, read-only; on a local store the file or directory is moved there.

    Args:
        store: where to.
        key: the artifact's key, ``<attempt's prefix>/out/<name>``.
        path: what the step wrote.
        check: called for each file and block; what it raises ends the work.

    Returns:
        The artifact: ``key``, ``digest``, ``size`` in bytes, ``kind`` (``file`` or ``dir``) and ``files``, how many.

    Raises:
        UserError: the step wrote nothing there, or something that can't be published.
        InfraError: the store could not be written.
    """
    artifact, lines = describe(path, keep=True, check=check)
    if store.root is not None:
        _move(path, store.url_of(key), check)
    elif lines is None:
        check()
        store.upload(key, path)
    else:

        def upload(file: str) -> None:
            check()
            store.upload(f"{key}/{file}", f"{path}/{file}")

        each(store, upload, [line[0] for line in lines if line[1] != "d"], _THREADS)
    if lines is not None:
        if store.root is not None:
            trees.set_mode(store.url_of(key), trees.FOLDER)
        store.put(_manifest(key), _manifest_bytes(lines))
    return {"key": key, **artifact}


def adopt(store: Store, key: str, *, check: Callable[[], None] = go_on) -> Artifact:
    """Make an artifact of what a step wrote straight into the store by its URL.

    In a bucket this reads every byte once, since a digest must not depend on where the artifact lies.

    Args:
        store: where it lies.
        key: of one object, or the prefix of many.
        check: called for each file and block; what it raises ends the work.

    Returns:
        The artifact, as `publish` does.

    Raises:
        UserError: nothing is there.
        InfraError: the store could not be read.
    """
    if store.root is not None:
        url = store.url_of(key)
        if not os.path.lexists(url):
            raise _unwritten(store, key)
        artifact, lines = describe(url, keep=True, check=check)
        if lines is not None:
            trees.set_mode(url, trees.FOLDER)
    elif store.exists(key):
        size, sha = _hash_object(store, key, check)
        artifact, lines = file_artifact(size, sha), None
    else:
        members = _members(store, key)
        if not members:
            raise _unwritten(store, key)
        sums = each(store, lambda member: _hash_object(store, member, check), members, _THREADS)
        lines = [[member[len(key) + 1 :], "-", size, sha] for member, (size, sha) in zip(members, sums, strict=True)]
        lines.sort(key=order_key)
        artifact = tree_artifact(lines)
    if lines is not None:
        store.put(_manifest(key), _manifest_bytes(lines))
    return {"key": key, **artifact}


def _unwritten(store: Store, key: str) -> UserError:
    folder, _, name = key.rpartition("/")
    message = f"output {name!r} was not written: nothing is at {store.url_of(key)}"
    return UserError(message + beside(name, store.names(folder), f'outputs["{name}"] + "/part"'))


def beside(name: str, found: Iterable[str], instead: str) -> str:
    """Return what to add to the message that an output is missing, where it lies beside its place in shards or with a suffix.

    Args:
        name: the output's name.
        found: the names in the directory where it should be.
        instead: what to write shards to.

    Source: Beam's file sinks, which write ``PREFIX-SSSSS-of-NNNNN``; numpy.save, matplotlib and others, which add a suffix.
    """
    shards = sorted(other for other in found if other.startswith(f"{name}-"))
    if shards:
        more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        return f", but there is {shards[0]}{more} beside it; write to {instead}, so that the output is a directory"
    named = sorted(other for other in found if other.startswith(f"{name}."))
    if named:
        return f", but there is {named[0]!r} beside it: some libraries add a suffix; rename it to {name!r} when it is written"
    return ""


def is_whole(store: Store, artifact: Artifact, *, check: Callable[[], None] = go_on) -> bool:
    """Return whether an artifact is in the store as it was published.

    In a directory every byte is read; in a bucket every byte of one up to 64 MiB, and of a larger one its manifest and sizes.
    """
    key, digest, size = str(artifact["key"]), str(artifact["digest"]), int(artifact["size"])
    if store.root is not None:
        try:
            path = store.url_of(key)
            is_dir = os.path.isdir(path)
            return (not is_dir or store.exists(_manifest(key))) and describe(path, check=check)[0]["digest"] == digest
        except UserError:
            return False
    if artifact["kind"] == "file":
        if size <= _REHASHED:
            return store.exists(key) and f"sha256:{_hash_object(store, key, check)[1]}" == digest
        end = store.get(key, max(0, size - 1))  # a byte, if the size is the same
        return end is not None and len(end) == min(1, size)
    lines = _read_manifest(store.get(_manifest(key)))
    if lines is None or tree_digest(lines) != digest:
        return False
    files = {f"{key}/{line[0]}": line for line in lines if line[1] != "d"}
    sizes = dict(store.walk(key))
    if any(sizes.get(member) != line[2] for member, line in files.items()):
        return False
    if size > _REHASHED:
        return True
    sums = each(store, lambda member: _hash_object(store, member, check)[1], list(files), _THREADS)
    return sums == [line[3] for line in files.values()]


def fetch(store: Store, artifact: Artifact, scratch: str, name: str = "", *, check: Callable[[], None] = go_on) -> str:
    """Bring an artifact to this machine and verify it.

    Args:
        store: where it lies.
        artifact: as `publish` returned it.
        scratch: a directory of the attempt's own, for copies; each gets a directory of its own in it.
        name: what the step calls this input, for messages.
        check: called for each file and block; what it raises ends the work.

    Returns:
        The local path: inside the store if that is local, else in ``scratch``.

    Raises:
        InputError: it is missing, or its digest is not the one that was published.
        InfraError: the store could not be read.
    """
    key = str(artifact["key"])
    path = store.url_of(key) if store.root is not None else f"{_room(scratch)}/{os.path.basename(key)}"
    _bring(store, artifact, path, name, check)
    return path


def gather(store: Store, parts: Sequence[Artifact], scratch: str, name: str = "", *, check: Callable[[], None] = go_on) -> str:
    """Bring many artifacts into one directory and verify each.

    Args:
        store: where they lie.
        parts: as `publish` returned them.
        scratch: a directory of the attempt's own.
        name: what the step calls this input, for messages.
        check: called for each file and block; what it raises ends the work.

    Returns:
        A directory whose entries are ``00000000``, ``00000001``, …: the artifacts in order, as links into the store if
        that is local.

    Raises:
        InputError: one is missing, or its digest is not the one that was published.
        InfraError: the store could not be read.
    """
    folder = f"{_room(scratch)}/{name or 'gathered'}"
    make_folder(folder)

    def bring(number: int) -> None:
        entry = f"{folder}/{number:08d}"
        if store.root is None:
            _bring(store, parts[number], entry, name, check)
            return
        path = store.url_of(str(parts[number]["key"]))
        _bring(store, parts[number], path, name, check)
        try:
            os.symlink(path, entry)
        except OSError as error:
            raise trouble("write", entry, error) from error

    each(store, bring, range(len(parts)), _THREADS)
    return folder


def fetch_url(url: str, scratch: str, name: str = "", *, check: Callable[[], None] = go_on) -> tuple[str, str]:
    """Bring an external input to this machine.

    Args:
        url: an absolute path, ``file:///…``, ``https://…``, or an object or prefix in a bucket.
        scratch: a directory of the attempt's own, for copies.
        name: what the step calls this input, for messages.
        check: called for each file and block; what it raises ends the work.

    Returns:
        The local path and its digest.

    Raises:
        ConfigError: no server can have such a URL.
        InputError: there is nothing, or it can't be read.
        InfraError: the place could not be reached.
    """
    label = f"input {name!r} ({urls.plain(url)})" if name else f"input {urls.plain(url)}"
    scheme, colon, rest = url.partition("://")
    if not colon or scheme == "file":
        path = str(open_store(url).root)
    elif scheme in urls.WEB:
        path = f"{_room(scratch)}/{url.partition('?')[0].rstrip('/').rpartition('/')[2] or 'index'}"
        _download_http(url, path, label, check)
    elif scheme in BUCKET_SCHEMES:
        bucket, _, key = rest.rstrip("/").partition("/")
        if not key:
            raise InputError(f"{label} is a whole bucket; name an object or a prefix in it")
        # A key is a name, not a piece of a URL: a "#", "?" or "%" in it means itself.
        path = f"{_room(scratch)}/{_safe(key, label).rpartition('/')[2]}"
        _download_prefix(open_store(f"{scheme}://{bucket}"), key, path, label, check)
    else:
        raise InputError(f"{label}: no such kind of URL; use a path, https://, s3://, gs:// or az://")
    return path, _digest_of_input(os.path.realpath(path), label, check, ours=False)


def _download_prefix(store: Store, key: str, path: str, label: str, check: Callable[[], None]) -> None:
    """Copy an object, or all objects under a prefix, to ``path``."""
    if _download(store, key, path, check):
        return
    members = [member[len(key) + 1 :] for member in _members(store, key)]
    if not members:
        raise InputError(f"{label} does not exist")
    if len(members) > trees.ENTRIES:
        raise InputError(f"{label}: more than {trees.ENTRIES} objects; name a smaller prefix, or read it by URL")
    names = set(members)
    for member in members:
        folder = _safe(member, label).rpartition("/")[0]
        while folder:
            if folder in names:
                raise InputError(f"{label}: {folder!r} is an object and a folder at once, which no directory can hold")
            folder = folder.rpartition("/")[0]
    each(store, lambda member: _fetch_member(store, f"{key}/{member}", f"{path}/{member}", label, check), members, _THREADS)


def _members(store: Store, prefix: str) -> list[str]:
    # Some tools keep an empty object for each directory, named with a slash at its end. It is listed, but is nobody's file.
    return sorted(key for key, size in store.walk(prefix) if size or store.exists(key))


def _hash_object(store: Store, key: str, check: Callable[[], None]) -> tuple[int, str]:
    blocks = iter(store.stream(key))
    return hash_blocks(lambda: next(blocks, b""), check)


def _download(store: Store, key: str, path: str, check: Callable[[], None]) -> bool:
    """Copy an object to a file, block by block; False if there is no such object."""
    blocks: Iterator[bytes] = iter(store.stream(key))
    block = next(blocks, b"")
    if not block:  # empty, or not there
        return store.download(key, path)
    try:
        with open(path, "wb") as file:
            while block:
                check()
                file.write(block)
                block = next(blocks, b"")
    except OSError as error:
        raise trouble("write", path, error) from error
    return True


def _move(path: str, target: str, check: Callable[[], None]) -> None:
    try:
        try:
            os.rename(path, target)
        except FileNotFoundError:
            make_folder(os.path.dirname(target))
            os.rename(path, target)
    except OSError as error:
        if error.errno in _IN_THE_WAY:
            raise UserError(f"an output can't be published: something that the step made is in its place, {target}") from error
        if error.errno != errno.EXDEV:
            raise trouble("write", target, error) from error
        _copy_across(path, target, check)


def _copy_across(path: str, target: str, check: Callable[[], None]) -> None:
    import shutil

    def copy(source: str, copied: str) -> None:
        with open(source, "rb") as inlet, open(copied, "xb") as outlet:
            while block := inlet.read(BLOCK):
                check()
                outlet.write(block)
            os.fchmod(outlet.fileno(), os.fstat(inlet.fileno()).st_mode & 0o777)

    temp = f"{os.path.dirname(target)}/{TEMP}{os.urandom(8).hex()}"
    try:
        if os.path.isdir(path):
            shutil.copytree(path, temp, symlinks=True, copy_function=copy)  # no deeper than `trees.walk` allows
        else:
            copy(path, temp)
        os.rename(temp, target)
    except OSError as error:
        raise trouble("write", target, error) from error
    except shutil.Error as error:
        raise InfraError(f"cannot write {target}: {error}") from error
    finally:
        trees.remove(temp)
    trees.remove(path)


def _manifest(key: str) -> str:
    return f"{key}.tree.json"  # an output's name has no dot, so this is nobody's output


def _manifest_bytes(lines: list[Line]) -> bytes:
    return wire.dumps({"version": 1, "digest": tree_digest(lines), "files": lines}).encode()


def _read_manifest(data: bytes | None) -> list[Line] | None:
    """Return a manifest's lines; None if it is missing or damaged."""
    try:
        lines: list[Line] = wire.loads(data or b"")["files"]
        tree_artifact(lines)
        return lines if all(len(line) == 4 for line in lines) else None
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        return None


def _fetch_tree(store: Store, key: str, expected: str, path: str, label: str, check: Callable[[], None]) -> None:
    data = store.get(_manifest(key))
    if data is None:
        raise InputError(f"{label} is missing from the store; {_AGAIN}")
    lines = _read_manifest(data)
    if lines is None:
        raise InputError(f"{label}: its manifest is damaged; {_AGAIN}")
    members = [(_safe(line[0], label), line[1]) for line in lines]
    found = tree_digest(lines)
    if found != expected:
        raise InputError(f"{label} is not what was published: expected {expected}, found {found} in its manifest; {_author(key)}")
    make_folder(path)
    for member, kind in members:
        make_folder(f"{path}/{member}" if kind == "d" else os.path.dirname(f"{path}/{member}"))
    files = [(member, kind) for member, kind in members if kind != "d"]
    each(store, lambda file: _fetch_member(store, f"{key}/{file[0]}", f"{path}/{file[0]}", label, check), files, _THREADS)
    for member, kind in files:
        if kind == "x":
            trees.set_mode(f"{path}/{member}", trees.PROGRAM)


def _bring(store: Store, artifact: Artifact, path: str, name: str, check: Callable[[], None]) -> None:
    """Verify what is at ``path``: the artifact itself in a local store, else a copy that is made there first, as read-only."""
    key, expected = str(artifact["key"]), str(artifact["digest"])
    label = f"input {name!r} ({store.url_of(key)})" if name else f"input {store.url_of(key)}"
    is_copy = store.root is None
    if is_copy:
        if artifact["kind"] == "dir":
            _fetch_tree(store, key, expected, path, label, check)
        elif not _download(store, key, path, check):
            raise InputError(f"{label} is missing from the store; {_AGAIN}")
        elif artifact.get("executable"):
            trees.set_mode(path, trees.PROGRAM)
    found = _digest_of_input(path, label, check, keep=is_copy)
    if found != expected and not is_copy and _clear_bytecode(store, key, path):
        found = _digest_of_input(path, label, check)
    if found != expected:
        raise InputError(f"{label} is not what was published: expected {expected}, found {found}; {_author(key)}")
    if is_copy and artifact["kind"] == "dir":
        trees.set_mode(path, trees.FOLDER)


def _author(key: str) -> str:
    """Return whose output an artifact is, and what to do about one that has changed."""
    parts = key.split("/")
    if len(parts) != 6 or parts[4] != "out":
        return _AGAIN
    return f"attempt {parts[3]} of step {parts[2]!r} in run {parts[1]!r} published it, and something changed it since; {_AGAIN}"


def _clear_bytecode(store: Store, key: str, path: str) -> bool:
    """Remove what Python left beside modules of an artifact; tell whether there was any.

    A user who may not write there, as modes have it, leaves none. But root heeds no modes.
    """
    lines = _read_manifest(store.get(_manifest(key))) or []
    names = {str(line[0]) for line in lines}
    folders = {os.path.dirname(name) for name in names if name.endswith(".py")}
    left = [f"{path}/{folder}/__pycache__" for folder in folders if not any("__pycache__" in name for name in names)]
    left = [folder for folder in left if os.path.lexists(folder)]
    for folder in left:
        trees.remove(folder)
    return bool(left)


def _fetch_member(store: Store, key: str, path: str, label: str, check: Callable[[], None]) -> None:
    check()
    make_folder(os.path.dirname(path))
    if not _download(store, key, path, check):
        raise InputError(f"{label}: {key} is missing from the store; {_AGAIN}")


def _safe(member: Any, label: str) -> str:
    """Return a member's path if it stays in its directory; manifests may come from anywhere."""
    if not isinstance(member, str) or any(part in ("", ".", "..") for part in member.split("/")) or not portable(member):
        raise InputError(f"{label}: {member!r} is not the name of a file in a directory")
    if member.count("/") > trees.DEPTH:
        raise InputError(f"{label} has more than {trees.DEPTH} folders below each other: {member[:100]}…")
    return member


def _digest_of_input(path: str, label: str, check: Callable[[], None], *, ours: bool = True, keep: bool = False) -> str:
    try:
        return str(describe(path, ours=ours, keep=keep, check=check)[0]["digest"])
    except UserError as error:
        if not os.path.lexists(path):
            raise InputError(f"{label} does not exist") from None
        raise InputError(f"{label}: {error}") from error


def _room(scratch: str) -> str:
    """Make a new directory in ``scratch``, so that two inputs of the same name don't meet."""
    number = 1
    while True:
        path = f"{scratch}/in-{number}"
        try:
            make_folder(scratch)
            os.mkdir(path)
            return path
        except FileExistsError:
            number += 1
        except OSError as error:
            raise trouble("write", path, error) from error


def _download_http(url: str, path: str, label: str, check: Callable[[], None] | None = None) -> None:
    from backends.store import download  # which brings what most runs do without

    if reason := urls.flaw(url):
        raise ConfigError(f"{label}: {reason}")
    try:
        download.download(url, lambda: download.File(path), download.OF_AN_INPUT, check)
    except download.Refused as error:
        raise InputError(f"{label}: {error}") from error
    except download.Broken as error:
        raise InfraError(f"{label} could not be read: {error}; check the host's name and the network") from error
