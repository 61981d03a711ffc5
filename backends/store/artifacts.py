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
from backends.store import open_store, urls
from backends.store.base import BUCKET_SCHEMES, Store, each, trouble
from backends.store.digests import describe, file_artifact, hash_blocks, order_key, tree_artifact, tree_digest
from backends.store.local import make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from backends.store.digests import Artifact, Line


_THREADS = 8
_AGAIN = "make it again, in a new run"


def publish(store: Store, key: str, path: str) -> Artifact:
    """Put a step's output into the store; on a local store the file or directory is moved there.

    Args:
        store: where to.
        key: the artifact's key, ``<attempt's prefix>/out/<name>``.
        path: what the step wrote.

    Returns:
        The artifact: ``key``, ``digest``, ``size`` in bytes, ``kind`` (``file`` or ``dir``) and ``files``, how many.

    Raises:
        UserError: the step wrote nothing there, or something that can't be published.
        InfraError: the store could not be written.
    """
    artifact, lines = describe(path, moving=store.root is not None)
    if store.root is not None:
        _move(path, store.url_of(key))
    elif lines is None:
        store.upload(key, path)
    else:
        files = [line[0] for line in lines if line[1] != "d"]
        each(store, lambda file: store.upload(f"{key}/{file}", f"{path}/{file}"), files, _THREADS)
    if lines is not None:
        store.put(_manifest(key), _manifest_bytes(lines))
    return {"key": key, **artifact}


def adopt(store: Store, key: str) -> Artifact:
    """Make an artifact of what a step wrote straight into the store by its URL.

    In a bucket this reads every byte once, since a digest must not depend on where the artifact lies.

    Args:
        store: where it lies.
        key: of one object, or the prefix of many.

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
        artifact, lines = describe(url)
    elif store.exists(key):
        size, sha = _hash_object(store, key)
        artifact, lines = file_artifact(size, sha), None
    else:
        members = _members(store, key)
        if not members:
            raise _unwritten(store, key)
        sums = each(store, lambda member: _hash_object(store, member), members, _THREADS)
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
    """Return what to add to the message that an output is missing, where its shards lie beside its place; else nothing.

    Args:
        name: the output's name.
        found: the names in the directory where it should be.
        instead: what to write to.

    Source: Beam's file sinks, which write ``PREFIX-SSSSS-of-NNNNN``.
    """
    shards = sorted(other for other in found if other.startswith(f"{name}-"))
    if not shards:
        return ""
    more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
    return f", but there is {shards[0]}{more} beside it; write to {instead}, so that the output is a directory"


def exists(store: Store, artifact: Artifact) -> bool:
    """Return whether an artifact is still in the store, without reading it."""
    key = artifact["key"]
    if artifact["kind"] == "file":
        return store.exists(key)
    return store.exists(_manifest(key)) and (store.root is None or os.path.isdir(store.url_of(key)))


def fetch(store: Store, artifact: Artifact, scratch: str, name: str = "") -> str:
    """Bring an artifact to this machine and verify it.

    Args:
        store: where it lies.
        artifact: as `publish` returned it.
        scratch: a directory of the attempt's own, for copies; each gets a directory of its own in it.
        name: what the step calls this input, for messages.

    Returns:
        The local path: inside the store if that is local, else in ``scratch``.

    Raises:
        InputError: it is missing, or its digest is not the one that was published.
        InfraError: the store could not be read.
    """
    key = str(artifact["key"])
    path = store.url_of(key) if store.root is not None else f"{_room(scratch)}/{os.path.basename(key)}"
    _bring(store, artifact, path, name)
    return path


def gather(store: Store, parts: Sequence[Artifact], scratch: str, name: str = "") -> str:
    """Bring many artifacts into one directory and verify each.

    Args:
        store: where they lie.
        parts: as `publish` returned them.
        scratch: a directory of the attempt's own.
        name: what the step calls this input, for messages.

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
            _bring(store, parts[number], entry, name)
            return
        path = store.url_of(str(parts[number]["key"]))
        _bring(store, parts[number], path, name)
        try:
            os.symlink(path, entry)
        except OSError as error:
            raise trouble("write", entry, error) from error

    each(store, bring, range(len(parts)), _THREADS)
    return folder


def fetch_url(url: str, scratch: str, name: str = "") -> tuple[str, str]:
    """Bring an external input to this machine.

    Args:
        url: an absolute path, ``file:///…``, ``https://…``, or an object or prefix in a bucket.
        scratch: a directory of the attempt's own, for copies.
        name: what the step calls this input, for messages.

    Returns:
        The local path and its digest.

    Raises:
        ConfigError: no server can have such a URL.
        InputError: there is nothing, or it can't be read.
        InfraError: the place could not be reached.
    """
    label = f"input {name!r} ({urls.plain(url)})" if name else f"input {urls.plain(url)}"
    scheme, colon, _ = url.partition("://")
    if not colon or scheme == "file":
        path = str(open_store(url).root)
    elif scheme in urls.WEB:
        path = f"{_room(scratch)}/{url.partition('?')[0].rstrip('/').rpartition('/')[2] or 'index'}"
        _download_http(url, path, label)
    elif scheme in BUCKET_SCHEMES:
        parent, _, last = url.rstrip("/").rpartition("/")
        if parent.endswith("/"):
            raise InputError(f"{label} is a whole bucket; name an object or a prefix in it")
        store = open_store(parent)
        path = f"{_room(scratch)}/{last}"
        if not store.download(last, path):
            members = _members(store, last)
            if not members:
                raise InputError(f"{label} does not exist")
            each(
                store,
                lambda key: _fetch_member(store, key, f"{path}/{_safe(key[len(last) + 1 :], label)}", label),
                members,
                _THREADS,
            )
    else:
        raise InputError(f"{label}: no such kind of URL; use a path, https://, s3://, gs:// or az://")
    return path, _digest_of_input(os.path.realpath(path), label, ours=False)


def _members(store: Store, prefix: str) -> list[str]:
    # Some tools keep an empty object for each directory, named with a slash at its end. It is listed, but is nobody's file.
    return sorted(key for key, size in store.walk(prefix) if size or store.exists(key))


def _hash_object(store: Store, key: str) -> tuple[int, str]:
    blocks = iter(store.stream(key))
    return hash_blocks(lambda: next(blocks, b""))


def _move(path: str, target: str) -> None:
    try:
        try:
            os.rename(path, target)
        except FileNotFoundError:
            make_folder(os.path.dirname(target))
            os.rename(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise trouble("write", target, error) from error
        _copy_across(path, target)


def _copy_across(path: str, target: str) -> None:
    import shutil

    from backends.store.base import TEMP

    temp = f"{os.path.dirname(target)}/{TEMP}{os.urandom(8).hex()}"
    try:
        if os.path.isdir(path):
            shutil.copytree(path, temp, symlinks=True)
        else:
            shutil.copy(path, temp)
        os.rename(temp, target)
        if os.path.isdir(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except OSError as error:
        raise trouble("write", target, error) from error
    except shutil.Error as error:
        raise InfraError(f"cannot write {target}: {error}") from error


def _manifest(key: str) -> str:
    return f"{key}.tree.json"  # an output's name has no dot, so this is nobody's output


def _manifest_bytes(lines: list[Line]) -> bytes:
    return wire.dumps({"version": 1, "digest": tree_digest(lines), "files": lines}).encode()


def _fetch_tree(store: Store, key: str, expected: str, path: str, label: str) -> None:
    data = store.get(_manifest(key))
    if data is None:
        raise InputError(f"{label} is missing from the store; {_AGAIN}")
    try:
        lines = wire.loads(data)["files"]
        found = tree_digest(lines)
        members = [(_safe(line[0], label), line[1]) for line in lines]
    except (ValueError, KeyError, TypeError, IndexError, RecursionError):
        raise InputError(f"{label}: its manifest is damaged; {_AGAIN}") from None
    if found != expected:
        raise InputError(f"{label} is not what was published: expected {expected}, found {found} in its manifest")
    make_folder(path)
    for member, kind in members:
        make_folder(f"{path}/{member}" if kind == "d" else os.path.dirname(f"{path}/{member}"))
    files = [(member, kind) for member, kind in members if kind != "d"]
    each(store, lambda file: _fetch_member(store, f"{key}/{file[0]}", f"{path}/{file[0]}", label), files, _THREADS)
    for member, kind in files:
        if kind == "x":
            mode = os.stat(f"{path}/{member}").st_mode
            os.chmod(f"{path}/{member}", mode | (mode & 0o444) >> 2)  # whoever may read it may run it


def _bring(store: Store, artifact: Artifact, path: str, name: str) -> None:
    """Verify what is at ``path``: the artifact itself in a local store, else a copy that is made there first."""
    key, expected = str(artifact["key"]), str(artifact["digest"])
    label = f"input {name!r} ({store.url_of(key)})" if name else f"input {store.url_of(key)}"
    if store.root is None:
        if artifact["kind"] == "dir":
            _fetch_tree(store, key, expected, path, label)
        elif not store.download(key, path):
            raise InputError(f"{label} is missing from the store; {_AGAIN}")
    found = _digest_of_input(path, label)
    if found != expected:
        raise InputError(f"{label} is not what was published: expected {expected}, found {found}")


def _fetch_member(store: Store, key: str, path: str, label: str) -> None:
    make_folder(os.path.dirname(path))
    if not store.download(key, path):
        raise InputError(f"{label}: {key} is missing from the store; {_AGAIN}")


def _safe(member: Any, label: str) -> str:
    """Return a member's path if it stays in its directory; manifests may come from anywhere."""
    if not isinstance(member, str) or any(part in ("", ".", "..") for part in member.split("/")) or "\0" in member:
        raise InputError(f"{label}: {member!r} is not the name of a file in a directory")
    return member


def _digest_of_input(path: str, label: str, *, ours: bool = True) -> str:
    try:
        return str(describe(path, ours=ours)[0]["digest"])
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
