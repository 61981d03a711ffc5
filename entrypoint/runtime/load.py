"""Find the config and read it.

A resolved JSON config, which is what every backend ships, is read with next to nothing; YAML, checks and downloads load
only when a config needs them.
"""

from __future__ import annotations

import os
import stat

from backends import wire
from backends.config import shape
from backends.config.bounds import MAX_BYTES, is_too_heavy
from backends.errors import ConfigError, InfraError, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

DEFAULT_FILES = ("/etc/zen-runner/config.yaml", "/etc/zen-runner/config.yml", "/etc/zen-runner/config.json")


class Source:
    """A config that was found but not read yet.

    Args:
        data: its bytes.
        origin: how the user knows it: the path as given, ``$ZEN_RUNNER_CONFIG``, a URL or ``stdin``.
        base: the absolute directory that its relative paths start from.
        name: what the pipeline is called if the config doesn't say.
    """

    __slots__ = ("base", "data", "name", "origin")

    def __init__(self, data: bytes, origin: str, base: str, name: str = "pipeline") -> None:
        self.data = data
        self.origin = origin
        self.base = base
        self.name = name


def find(config: str | None, environ: Mapping[str, str]) -> Source:
    """Return the config that is meant, the first of: the argument, ``$ZEN_RUNNER_CONFIG``, ``$ZEN_RUNNER_CONFIG_FILE``, /etc.

    Args:
        config: what ``--config`` says: a path, a URL, or ``-`` for the standard input; None without the option.
        environ: the process's environment; an empty variable counts as unset.

    Raises:
        ConfigError: there is none, or it can't be read.
        InfraError: it lies elsewhere, and that could not be reached.
    """
    if config is not None:
        if config == "-":
            data = _bounded(_read(0, "stdin"), "stdin")
            return Source(data, "stdin", os.getcwd())
        return _fetch(config, config) if "://" in config else _file(config, "--config")
    if inline := environ.get("ZEN_RUNNER_CONFIG"):
        return _inline(inline)
    if path := environ.get("ZEN_RUNNER_CONFIG_FILE"):
        return _file(path, "$ZEN_RUNNER_CONFIG_FILE")
    for path in DEFAULT_FILES:
        if os.path.lexists(path):
            return _file(path, path)
    raise ConfigError(
        "there is no config: give --config PATH, a URL or - (standard input); or set $ZEN_RUNNER_CONFIG to the config "
        "itself; or $ZEN_RUNNER_CONFIG_FILE to its path; or mount one at " + DEFAULT_FILES[0]
    )


def load(
    source: Source,
    *,
    overrides: Sequence[str] = (),
    backend: str | None = None,
    environ: Mapping[str, str],
    in_full: bool = False,
) -> tuple[dict[str, Any], str]:
    """Return the resolved config and its SHA-256 (64 hexadecimal digits over its canonical JSON).

    Args:
        source: from :func:`find`.
        overrides: what ``--set`` says, each ``PATH=VALUE``.
        backend: what ``--backend`` says: it takes the place of the config's ``backend``.
        environ: where ``${env:NAME}`` looks.
        in_full: check also one that says it is resolved as any other is checked.

    Raises:
        ConfigError: the config is wrong; it lists every problem.
        UsageError: an override is not ``PATH=VALUE``.
    """
    config = None
    if not overrides and backend is None:
        config = read_resolved(source.data)
    if config is not None and in_full:
        _check_resolved(config, source, environ)
    if config is None:
        from backends.config import document, resolve

        config = resolve.load(
            document.parse(source.data, source.origin),
            base=source.base,
            name_default=source.name,
            environ=environ,
            overrides=overrides,
            backend=backend,
        )
        if document.holds_too_much(wire.dumps(config)):
            raise _wrong(source.origin, "it holds too much once it is resolved; put what is long into files")
    data = wire.dumps(config).encode("ascii")
    if len(data) > MAX_BYTES:
        raise _wrong(source.origin, f"once it is resolved it has {len(data):,} bytes, and {MAX_BYTES >> 20} MiB is the most")
    return config, wire.sha256(data)


def _check_resolved(config: dict[str, Any], source: Source, environ: Mapping[str, str]) -> None:
    """Raise a `ConfigError` if a resolved config is not what resolving it again gives."""
    from backends.config import document, resolve

    whole = {
        name: {**step, "resources": {**dict.fromkeys(shape.RESOURCES), **step["resources"]}}
        for name, step in config["steps"].items()
    }
    again = resolve.load(document.parse(source.data, source.origin), base=source.base, name_default=source.name, environ=environ)
    if again != {**config, "steps": whole}:
        raise _wrong(
            source.origin, "it says that it is resolved, but `zen-runner resolve` writes another; resolve the config again"
        )


def read_resolved(data: bytes) -> dict[str, Any] | None:
    """Return the config if it is a resolved one in full, else None, so that the checks say what it lacks."""
    if data[:1] != b"{" or b'"resolved"' not in data or len(data) > MAX_BYTES or is_too_heavy(data):
        return None
    try:
        config: Any = wire.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(config, dict) or config.get("resolved") is not True or config.get("version") != 1:
        return None
    steps = config.get("steps")
    if config.keys() != shape.CONFIG or not isinstance(steps, dict) or not steps:
        return None
    return config if all(map(_is_resolved_step, steps.values())) and _are_groups_whole(steps) else None


def _is_resolved_step(step: object) -> bool:
    """Return whether a step has the keys and the kinds of value that the supervisor counts on."""
    if not isinstance(step, dict) or not step.keys() >= shape.STEP.keys() or len(step) != len(shape.STEP) + 1:
        return False
    kind = next((kind for kind in shape.KINDS if kind in step), None)
    if kind is None or not (_are_texts(step[kind]) if kind == "run" else isinstance(step[kind], str)):
        return False
    for key, expected in shape.STEP.items():
        if not (_are_texts(step[key]) if expected is list else isinstance(step[key], expected)):
            return False
    if not all(isinstance(source, dict) for source in step["inputs"].values()):
        return False
    if (foreach := step["foreach"]) is not None and not (
        foreach.keys() == shape.MEMBER.keys() and all(isinstance(foreach[key], kind) for key, kind in shape.MEMBER.items())
    ):
        return False
    return bool(shape.RESOURCES_BEFORE <= step["resources"].keys() <= shape.RESOURCES and step["retry"].keys() == shape.RETRY)


def _are_groups_whole(steps: Mapping[str, dict[str, Any]]) -> bool:
    """Return whether of each ``foreach`` step there are as many members as each of them says, so that all can be named."""
    counts: dict[str, int] = {}
    for step in steps.values():
        if (foreach := step["foreach"]) is not None:
            counts[foreach["of"]] = counts.get(foreach["of"], 0) + 1
    return all(
        counts[foreach["of"]] == foreach["size"] and name == f"{foreach['of']}.{foreach['index']}"
        for name, step in steps.items()
        if (foreach := step["foreach"]) is not None
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _wrong(origin: str, message: str, cause: BaseException | None = None) -> ConfigError:
    error = ConfigError([Problem(origin, "", message)])
    error.__cause__ = cause
    return error


def _read(fd: int, origin: str) -> Iterable[bytes]:
    while True:
        try:
            block = os.read(fd, 1 << 20)
        except OSError as error:
            raise _wrong(origin, f"it can't be read: {error.strerror}", error) from error
        if not block:
            return
        yield block


def _too_long(origin: str) -> ConfigError:
    return _wrong(origin, f"it has more than {MAX_BYTES >> 20} MiB, which no config has; is it the right file?")


def _bounded(blocks: Iterable[bytes], origin: str) -> bytes:
    """Join blocks of bytes, but not more than a config may have."""
    parts, size = [], 0
    for block in blocks:
        size += len(block)
        if size > MAX_BYTES:
            raise _too_long(origin)
        parts.append(block)
    return b"".join(parts)


def _file(path: str, option: str) -> Source:
    """Read a local file.

    Args:
        path: as the user gave it.
        option: where the user gave it, for messages.
    """
    if "\0" in path or not path:
        raise _wrong(option, "the path is empty or has a NUL character")
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _wrong(option if option != path else "", _why_not(path, error), error) from error
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            raise _wrong(option if option != path else "", f"{path} is a directory{_configs_in(path)}")
        data = _bounded(_read(fd, path), path)
    finally:
        os.close(fd)
    if not stat.S_ISREG(mode):  # a pipe, such as the shell's <(…): it has no place of its own
        return Source(data, path, os.getcwd())
    return Source(data, path, os.path.dirname(os.path.abspath(path)), _name(path))


def _name(path: str) -> str:
    return os.path.basename(path).partition(".")[0]


def _why_not(path: str, error: OSError) -> str:
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        from difflib import get_close_matches

        folder, name = os.path.split(path)
        try:
            near = get_close_matches(name, os.listdir(folder or "."), n=1)
        except OSError:
            return f"there is no file {path}: there is no directory {folder}; check the path, or the mount"
        hint = f" (did you mean {os.path.join(folder, near[0])!r}?)" if near else _configs_in(folder or ".")
        return f"there is no file {path}{hint}"
    if isinstance(error, PermissionError):
        return f"{path} may not be read by uid {os.getuid()}; make it readable: chmod a+r {path}"
    return f"{path} can't be opened: {error.strerror}"


def _configs_in(folder: str) -> str:
    try:
        found = sorted(name for name in os.listdir(folder) if name.endswith((".yaml", ".yml", ".json")))
    except OSError:
        found = []
    if not found:
        return "; name a YAML or JSON file"
    return "; in that directory: " + ", ".join(found[:5]) + (", …" if len(found) > 5 else "")


def _inline(value: str) -> Source:
    """Read the value of ``$ZEN_RUNNER_CONFIG``."""
    origin = "$ZEN_RUNNER_CONFIG"
    if value.startswith("gz:"):
        return Source(_gunzip(value[3:], origin), origin, os.getcwd())
    if value.startswith("ref:"):
        return _fetch(value[4:], origin, digest_needed=True)
    if len(value) < 4096 and "\n" not in value and os.path.isfile(value):
        raise _wrong(origin, f"it holds the path {value}; put a path in $ZEN_RUNNER_CONFIG_FILE")
    return Source(os.fsencode(value), origin, os.getcwd())


def _gunzip(text: str, origin: str) -> bytes:
    import binascii
    import zlib

    try:
        packed = binascii.a2b_base64("".join(text.split()).encode("ascii"), strict_mode=True)
        unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
        data = unpacker.decompress(packed, MAX_BYTES + 1)
    except (binascii.Error, UnicodeEncodeError, zlib.error) as error:
        raise _wrong(origin, f"after 'gz:' comes base64 of gzip, but: {error}; `zen-runner encode` writes it", error) from error
    _bounded((data,), origin)
    if not unpacker.eof:
        raise _wrong(origin, "the gzip data after 'gz:' is cut off; `zen-runner encode` writes it")
    return data


def _fetch(reference: str, origin: str, *, digest_needed: bool = False) -> Source:
    """Read ``URL#sha256=HEX``; the digest may be left out where a person named the URL."""
    from backends.store import urls

    url, mark, digest = reference.rpartition("#sha256=")
    if not mark:
        url, digest = reference, ""
    if digest_needed and not digest:
        raise _wrong(
            origin, f"the reference has no digest; write ref:{urls.plain(reference)}#sha256=HEX, 64 digits of the file's SHA-256"
        )
    digest = digest.lower()
    if digest and (len(digest) != 64 or digest.strip("0123456789abcdef")):
        raise _wrong(origin, "after '#sha256=' come the 64 hexadecimal digits of the file's SHA-256")
    scheme, colon, rest = url.partition("://")
    shown = urls.plain(url)
    if not colon or scheme.lower() == "file":
        if colon and not rest.startswith(("/", "localhost/")):
            raise _wrong(origin, f"a file URL has three slashes: file:///{rest}")
        source = _file(url if not colon else rest.removeprefix("localhost"), origin)
        source.origin = url
    else:
        if scheme.lower() in ("http", "https"):
            data = _download_http(url, shown)
        else:
            data = _download_bucket(url, shown)
        source = Source(data, shown, os.getcwd(), _name(url))
    if digest and wire.sha256(source.data) != digest:
        raise _wrong(
            origin,
            f"{shown} is not the file that was meant: its SHA-256 is {wire.sha256(source.data)}, not {digest}; "
            "make the reference again, or restore the file",
        )
    return source


def _download_bucket(url: str, shown: str) -> bytes:
    from backends.store import open_store

    folder, _, key = url.rpartition("/")
    if folder.endswith("/") or not key:
        raise _wrong(shown, "this names no object; write such as s3://bucket/path/config.json")
    store = open_store(folder, create=False)
    if not store.exists(key):
        raise _wrong(shown, "there is no such object; check the URL")
    return _bounded(store.stream(key), shown)


def _download_http(url: str, shown: str) -> bytes:
    from backends.store import download, urls

    if reason := urls.flaw(url):
        raise _wrong(shown, reason)
    sink = download.Memory(MAX_BYTES)
    try:
        download.download(url, sink.open, download.OF_A_CONFIG)
    except download.TooLong as error:
        raise _too_long(shown) from error
    except download.Refused as error:
        if error.status in (404, 410):
            raise _wrong(shown, f"there is no such file on the server (HTTP {error.status}); check the URL", error) from error
        raise InfraError(f"{shown}: {error}; check the URL and access") from error
    except download.Broken as error:
        raise InfraError(f"{shown}: it can't be fetched: {error}; check the address and the network") from error
    return bytes(sink.data)
