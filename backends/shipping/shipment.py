"""How code and config get from the machine that submits to the containers: through the store.

A *shipped* config is a resolved one that no longer speaks of this machine: ``code`` is ``sha256:<hex>``, the archive
``code/<hex>.tar.gz`` of the store, and ``base`` is ``/``. The same code and config give the same bytes on every machine.
"""

from __future__ import annotations

import os

from backends import wire
from backends.errors import ConfigError, InfraError, InputError, Problem
from backends.store import keys, open_store
from backends.store.base import trouble
from backends.store.local import make_folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from typing import Any

    from backends.store.base import Store

SHIPPED = "sha256:"
"""What the ``code`` of a shipped config begins with."""


class Shipment:
    """What ``upload`` brings into the store.

    Attributes:
        config: the shipped config.
        data: its canonical bytes.
        sha: their sha256.
        archive: the file that holds the code; None if there is no code, or it was shipped before.
        receipt: what ``code.pack`` says of it; None without an archive.
    """

    __slots__ = ("archive", "config", "data", "receipt", "sha")

    def __init__(self, config: dict[str, Any], archive: str | None, receipt: dict[str, Any] | None) -> None:
        self.config = config
        self.data = wire.dumps(config).encode()
        self.sha = wire.sha256(self.data)
        self.archive = archive
        self.receipt = receipt


def ship(config: Mapping[str, Any], workdir: str, *, mounts: Collection[str] = ()) -> Shipment:
    """Make a resolved config ready to run on other machines; offline.

    Args:
        config: the resolved config; a shipped one is left as it is.
        workdir: the directory that the code's archive is written to.
        mounts: local directories that the containers see under the same paths.

    Raises:
        ConfigError: something of it is on this machine alone: the store, an input; or the code can't ship.
        InfraError: the archive can't be written.
    """
    problems = []
    if not _is_seen(config["store"], mounts):
        problems.append(
            Problem(
                "",
                "store",
                f"{config['store']} is a directory of this machine, which the containers don't see; "
                "write a URL such as s3://bucket/prefix",
            )
        )
    for step, spec in config["steps"].items():
        for name, source in spec["inputs"].items():
            if "url" in source and not _is_seen(source["url"], mounts):
                problems.append(
                    Problem(
                        "",
                        f"steps.{step}.inputs.{name}",
                        f"{source['url']} is a file of this machine, and inputs are not shipped; put it into a bucket and "
                        "write its URL, or let a step produce it",
                    )
                )
    if problems:
        raise ConfigError(problems)
    archive = receipt = None
    shipped = {**config, "base": "/"}
    if config["code"] is not None and not config["code"].startswith(SHIPPED):
        from backends.shipping.archive import pack

        archive = os.path.join(workdir, "code.tar.gz")
        root = _local(config["store"])
        receipt = pack(config["code"], archive, exclude=[] if root is None else [root])
        shipped["code"] = SHIPPED + receipt["sha256"]
    return Shipment(shipped, archive, receipt)


def archive_key(code: str) -> str:
    """Return where in the store the archive lies that a shipped config's ``code`` names."""
    return keys.code(code.removeprefix(SHIPPED))


def upload(shipment: Shipment, store: Store) -> None:
    """Bring the archive and the config into the store; what is there already is left alone.

    Raises:
        ConfigError: the config was shipped before, but to another store.
        InfraError: the store can't be written.
    """
    code = shipment.config["code"]
    if code is not None:
        key = archive_key(code)
        there = store.exists(key)
        if not there and shipment.archive is None:
            raise ConfigError(f"code: {code} is not in {store.url}; submit from the config that names the code's directory")
        if not there and shipment.archive is not None:
            store.upload(key, shipment.archive)
    key = keys.config(shipment.sha)
    if not store.exists(key):
        store.put(key, shipment.data)


def receive(code: str, store: Store, environ: Mapping[str, str]) -> str:
    """Return the directory of a shipped config's code, unpacked from the store if it is not there yet.

    It is ``$ZEN_RUNNER_CODE_DIR/<hex>``, else ``zen-runner-code-<uid>/<hex>`` in the directory for temporary files, which nobody
    but this user can write.

    Args:
        code: the ``code`` of a shipped config.
        store: the opened artifact store.
        environ: this process's environment.

    Raises:
        ConfigError: the directory for temporary files holds what is not this user's.
        InputError: the archive is not in the store, or is not what it should be.
        InfraError: the store can't be read, or the directory can't be written.
    """
    digest = code.removeprefix(SHIPPED)
    parent = environ.get("ZEN_RUNNER_CODE_DIR")
    if not parent:
        parent = os.path.join(environ.get("TMPDIR") or "/tmp", f"zen-runner-code-{os.geteuid()}")
        _make_own(parent)
    target = os.path.join(parent, digest)
    if os.path.isdir(target):
        return target
    from backends.shipping import archive as archives

    key = archive_key(code)
    if store.root is not None:
        if not store.exists(key):
            raise _missing(store, key)
        return archives.unpack(os.path.join(store.root, key), digest, parent)
    try:
        make_folder(parent)
    except OSError as error:
        raise trouble("make", parent, error) from error
    temporary = os.path.join(parent, f".{digest[:16]}.{os.urandom(8).hex()}.tar.gz")
    try:
        if not store.download(key, temporary):
            raise _missing(store, key)
        return archives.unpack(temporary, digest, parent)
    finally:
        if os.path.lexists(temporary):
            os.unlink(temporary)


def _make_own(folder: str) -> None:
    """Make a directory that only this user can write, or see that it is one."""
    try:
        os.mkdir(folder, 0o700)
    except FileExistsError:
        found = os.lstat(folder)
        if found.st_mode & 0o170022 != 0o040000 or found.st_uid != os.geteuid():
            raise ConfigError(
                f"{folder} is not a directory that only this user can write, so code in it can't be trusted; remove it, or set "
                "$ZEN_RUNNER_CODE_DIR to another"
            ) from None
    except OSError as error:
        raise InfraError(
            f"{folder} can't be made: {error.strerror}; set $ZEN_RUNNER_CODE_DIR to a directory that this user can write"
        ) from error


def _missing(store: Store, key: str) -> InputError:
    return InputError(f"code: {store.url_of(key)} is not there; submit the pipeline again")


def _is_seen(url: str, mounts: Collection[str]) -> bool:
    path = _local(url)
    return path is None or any(path == mount or path.startswith(mount.rstrip("/") + "/") for mount in mounts)


def _local(url: str) -> str | None:
    """Return the path of a ``file:`` URL or a path; None for any other URL."""
    scheme, colon, _ = url.partition("://")
    return None if colon and scheme.lower() != "file" else open_store(url).root
