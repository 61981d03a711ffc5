"""How a config travels to where it runs: the ladder from a plain variable to a reference into the store.

The rungs, the first that fits being taken: ``inline`` (the variable holds the config), ``gzip`` (it holds it packed), ``mount``
(the platform mounts an object as a file), ``ref`` (the variable says where in the store it lies, and its digest).
"""

from __future__ import annotations

from backends import wire
from backends.errors import ConfigError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Literal

    How = Literal["inline", "gzip", "mount", "ref"]

VARIABLE, FILE_VARIABLE = "ZEN_RUNNER_CONFIG", "ZEN_RUNNER_CONFIG_FILE"
# Linux holds one environment string, its name, "=" and the final NUL included, to MAX_ARG_STRLEN = 32 pages of 4 KiB.
# Source: execve(2), "Limits on size of arguments and environment".
ENV_LIMIT = 131_072 - len(f"{VARIABLE}=") - 1  # bytes of the variable's value


class Limits:
    """What a platform holds of a config.

    Args:
        name: the platform, for messages.
        env_value: the most that the variable's value may count, in bytes, or in characters of JSON.
        as_json: the platform counts the value as JSON writes it: a quote is two characters.
        total: the most that all copies of the value in one document may count together; None for no limit.
        mount: the most bytes that an object mounted as a file may have; 0 where nothing can be mounted.
        source: where the numbers are from.
    """

    __slots__ = ("as_json", "env_value", "mount", "name", "source", "total")

    def __init__(
        self,
        name: str,
        env_value: int,
        *,
        as_json: bool = False,
        total: int | None = None,
        mount: int = 0,
        source: str = "",
    ) -> None:
        self.name = name
        self.env_value = env_value
        self.as_json = as_json
        self.total = total
        self.mount = mount
        self.source = source

    def count(self, value: str) -> int:
        """Return what the platform counts for a value: bytes of UTF-8, or characters of JSON without its quotes."""
        return len(wire.dumps(value)) - 2 if self.as_json else len(value.encode())


class Carried:
    """How a config travels.

    Attributes:
        value: of ``$ZEN_RUNNER_CONFIG``; for ``mount`` the text of the object to mount.
        how: the rung: ``inline``, ``gzip``, ``mount`` or ``ref``.
        size: what the platform counts for the value; for ``mount`` the object's bytes.
        why: a clause for people, with the counts.
    """

    __slots__ = ("how", "size", "value", "why")

    def __init__(self, value: str, how: How, size: int, why: str) -> None:
        self.value = value
        self.how = how
        self.size = size
        self.why = why

    def environment(self, path: str = "") -> dict[str, str]:
        """Return the variable that tells the container of its config.

        Args:
            path: where the object is mounted, as a file; needed for ``mount``.
        """
        return {FILE_VARIABLE: path} if self.how == "mount" else {VARIABLE: self.value}


def carry(data: bytes, limits: Limits, ref_url: str | None, *, used: int = 0, copies: int = 1) -> Carried:
    """Return the first rung of the ladder that holds a config.

    Args:
        data: the config: JSON or YAML in UTF-8, without NUL bytes.
        limits: the platform's.
        ref_url: where the same bytes lie in the store; None where nothing reads them there.
        used: what else counts towards the limit of the value, such as the other variables and their names.
        copies: how many times the value stands in one document.

    Raises:
        ConfigError: nothing fits.
    """
    room = limits.env_value - used
    if limits.total is not None:
        room = min(room, (limits.total - used) // max(copies, 1))
    # A value can't hold more bytes than it counts, so what is far too large is not even counted.
    small = len(data) <= room and not data.startswith((b"gz:", b"ref:"))
    text = data.decode("utf-8") if small else ""
    plain = limits.count(text) if small else len(data)
    if small and plain <= room:
        return Carried(text, "inline", plain, f"{plain:,} of {room:,} as it is")
    value = pack(data)
    packed = limits.count(value)
    if packed <= room:
        return Carried(value, "gzip", packed, f"{plain:,} as it is, {packed:,} of {room:,} when packed")
    counts = f"{plain:,} as it is and {packed:,} when packed, where {limits.name} has room for {max(room, 0):,}"
    if len(data) <= limits.mount:
        why = f"{counts}; mounted, {len(data):,} bytes of {limits.mount:,}"
        return Carried(data.decode("utf-8"), "mount", len(data), why)
    if limits.mount:
        counts += f", and a mounted object for {limits.mount:,} bytes"
    if ref_url is None:
        raise ConfigError(f"the config counts {counts}; use a store that the container can read, such as s3://bucket/prefix")
    value = f"ref:{ref_url}#sha256={wire.sha256(data)}"
    size = limits.count(value)
    if size > room:
        raise ConfigError(
            f"the config counts {counts}, and even the reference to it, {value}, counts {size:,}; "
            "shorten the store's URL, or the step's `env`"
        )
    return Carried(value, "ref", size, f"{counts}; by reference, {size:,}")


def encode(data: bytes, limit: int = ENV_LIMIT) -> tuple[str, str]:
    """Return a config as the value of ``$ZEN_RUNNER_CONFIG``: as it is if that fits, else packed.

    Args:
        data: the config: JSON or YAML in UTF-8, without NUL bytes.
        limit: the most bytes that the value may have.

    Returns:
        The value and how it was made: ``inline``, or ``gzip`` (``gz:`` and base64). The same data gives the same value.

    Raises:
        ConfigError: it doesn't fit either way.
    """
    if len(data) <= limit and not data.startswith((b"gz:", b"ref:")):
        return data.decode("utf-8"), "inline"
    value = pack(data)
    if len(value) <= limit:
        return value, "gzip"
    raise ConfigError(
        f"the config has {len(data)} bytes, {len(value)} when packed, and an environment variable here holds {limit}; mount it "
        "as a file and set $ZEN_RUNNER_CONFIG_FILE, or put it in the store and set $ZEN_RUNNER_CONFIG to ref:URL#sha256=HEX"
    )


def pack(data: bytes) -> str:
    """Return bytes as ``gz:`` and base64 of gzip; the same data gives the same text."""
    import binascii
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # gzip with no name and no time in its header
    packed = packer.compress(data) + packer.flush()
    return "gz:" + binascii.b2a_base64(packed, newline=False).decode("ascii")
