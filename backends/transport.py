"""How a config travels to where it runs."""

from __future__ import annotations

from backends.errors import ConfigError

# Linux holds one environment string, its name, "=" and the final NUL included, to MAX_ARG_STRLEN = 32 pages of 4 KiB.
# Source: execve(2), "Limits on size of arguments and environment".
ENV_LIMIT = 131_072 - len("ZEN_RUNNER_CONFIG=") - 1  # bytes of the variable's value


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
    import binascii
    import zlib

    packer = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)  # gzip with no name and no time in its header
    packed = packer.compress(data) + packer.flush()
    value = "gz:" + binascii.b2a_base64(packed, newline=False).decode("ascii")
    if len(value) <= limit:
        return value, "gzip"
    raise ConfigError(
        f"the config has {len(data)} bytes, {len(value)} when packed, and an environment variable here holds {limit}; mount it "
        "as a file and set $ZEN_RUNNER_CONFIG_FILE, or put it in the store and set $ZEN_RUNNER_CONFIG to ref:URL#sha256=HEX"
    )
