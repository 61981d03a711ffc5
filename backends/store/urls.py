"""URLs as text: whether one can be a server's at all, and how it is shown."""

from __future__ import annotations

WEB = ("http", "https")
LOGIN = "the URL has a user or password in it; use one that needs no login, or a store's own (s3://, …)"


def plain(url: str) -> str:
    """Return a URL without what may be secret in it: user, password and query."""
    url = url.partition("?")[0]
    scheme, colon, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return scheme + colon + host.rpartition("@")[2] + slash + path if colon else url


def flaw(url: str) -> str | None:
    """Return why no server can have an ``http://`` or ``https://`` URL, and what to write; None if one can."""
    for char in url:
        if char <= " " or char == "\x7f":
            shown = "%" + f"{ord(char):02X}"
            return f"the URL has the character {char!r}, which none can have; write {shown} for it, or remove it"
    rest = url.partition("://")[2].partition("#")[0].partition("?")[0]
    place, _, path = rest.partition("/")
    if "@" in place:
        return LOGIN
    if not (path + url.partition("?")[2]).isascii():
        return "the URL's path has a character that is not ASCII; write it in percent signs, such as %C3%A9"
    host, port = place, ""
    if place.startswith("["):
        host, bracket, port = place[1:].partition("]")
        if not bracket or not _is_address(host) or (port and not port.startswith(":")):
            return f"the URL's host {place[:80]!r} is no IPv6 address in brackets; write such as http://[::1]:8080/x"
        port = port[1:]
    elif ":" in place:
        host, _, port = place.partition(":")
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and 0 < int(port) < 65536):
        return f"the URL's port {port[:80]!r} is none; write a number from 1 to 65535, or leave it out"
    if not place.startswith("[") and not _is_host(host):
        return f"the URL's host {host[:80]!r} is none; write such as https://example.org/x"
    return None


def _is_address(host: str) -> bool:
    return ":" in host and not host.partition("%")[0].strip("0123456789abcdefABCDEF:.")


def _is_host(host: str) -> bool:
    labels = host.removesuffix(".").split(".")
    return len(host) < 254 and all(0 < len(label) < 64 and not set(label) & set('[]\\<>^`{|}"') for label in labels)
