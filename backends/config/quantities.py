"""Durations, memory, CPU and CUDA versions as people write them, turned into one form each.

Source of the memory and CPU notation: Kubernetes, "Quantity" (https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/).
"""

from __future__ import annotations

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {"": 1}
for _power, _letter in enumerate("KMGTPE", start=1):
    _BYTES[_letter + "i"] = 1024**_power
    _BYTES[_letter] = 1000**_power
_BYTES["k"] = 1000

LONGEST = 3650 * 86400.0  # seconds; keeps every timer of every platform within its range
SMALLEST = 1024 * 1024  # bytes; less is a forgotten unit
LARGEST = 1024**6  # bytes


def _said(value: object) -> str:
    return repr(int(value) if isinstance(value, float) and value.is_integer() else value)


def _number(text: str) -> tuple[int, int] | None:
    """Return a decimal number as ``(digits, how many of them are decimals)``, or None."""
    whole, dot, decimals = text.partition(".")
    if not text.isascii() or len(text) > 40 or not (whole + decimals).isdigit() or (dot and not decimals):
        return None
    return int(whole + decimals), len(decimals)


def _parts(text: str) -> list[tuple[str, str]]:
    """Split ``1h30m`` into ``[("1", "h"), ("30", "m")]``."""
    parts: list[tuple[str, str]] = []
    number = unit = ""
    for char in text:
        if char in "0123456789.":
            if unit:
                parts.append((number, unit))
                number = unit = ""
            number += char
        else:
            unit += char
    return [*parts, (number, unit)]


def duration(value: object) -> float:
    """Return a duration in seconds.

    Args:
        value: a number of seconds, or text such as ``90s``, ``1h30m``, ``2h``, ``500ms`` or ``2d``.

    Raises:
        ValueError: it is no duration, is negative, or is longer than ten years.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if -LONGEST <= value <= LONGEST else LONGEST + 1
    elif isinstance(value, str):
        seconds = 0.0
        for number, unit in _parts(value.strip()):
            parsed = _number(number)
            if parsed is None or unit not in _SECONDS:
                raise ValueError(f"{_said(value)} is not a duration; write seconds, or such as 90s, 1h30m, 2h or 500ms")
            seconds += parsed[0] / 10 ** parsed[1] * _SECONDS[unit]
        seconds = round(seconds, 9)
    else:
        raise ValueError(f"{_said(value)} is not a duration; write seconds, or such as 90s, 1h30m, 2h or 500ms")
    if seconds < 0:
        raise ValueError(f"{_said(value)} is negative; a duration is 0 or more")
    if not seconds <= LONGEST:
        raise ValueError(f"{_said(value)} is too long; the longest is 3650d")
    return seconds


def memory(value: object) -> int:
    """Return an amount of memory in bytes, rounded up.

    Args:
        value: a number of bytes, or a Kubernetes quantity such as ``16Gi``, ``512Mi``, ``1.5G`` or ``1e9``.

    Raises:
        ValueError: it is no such quantity, or not between 1Mi and 1Ei.
    """
    wrong = f"{_said(value)} is not an amount of memory; write such as 512Mi, 16Gi or 2G"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(wrong)
    text = value.strip() if isinstance(value, str) else format(value, "f") if isinstance(value, float) else str(value)
    mantissa = text.rstrip("kKMGTPEim")
    unit = text[len(mantissa) :]
    if unit == "m" and _number(mantissa):
        raise ValueError(f"{_said(value)} is thousandths of a byte; write {mantissa}Mi or {mantissa}M")
    mantissa, exponent_mark, exponent = mantissa.replace("E", "e").partition("e")
    number = _number(mantissa)
    if number is None or unit not in _BYTES or (exponent_mark and (unit or not exponent.lstrip("+").isdigit())):
        raise ValueError(wrong)
    power = int(exponent) if exponent_mark and len(exponent) < 4 else 99 if exponent_mark else 0
    amount: int = -(-number[0] * 10**power * _BYTES[unit] // 10 ** number[1])
    if amount < SMALLEST:
        raise ValueError(f"{_said(value)} is only {amount} bytes; write the unit too, such as {mantissa}Gi")
    if amount > LARGEST:
        raise ValueError(f"{_said(value)} is more than 1Ei; write such as 512Mi, 16Gi or 2G")
    return amount


def cpu(value: object) -> float:
    """Return a number of CPUs.

    Args:
        value: a number such as ``4`` or ``0.5``, or a Kubernetes quantity such as ``500m``.

    Raises:
        ValueError: it is no such quantity, or not more than 0.
    """
    wrong = f"{_said(value)} is not a number of CPUs; write such as 4, 0.5 or 500m"
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(wrong)
    if isinstance(value, str):
        text = value.strip()
        number = _number(text.removesuffix("m"))
        if number is None:
            raise ValueError(wrong)
        count: float = number[0] / 10 ** (number[1] + (3 if text.endswith("m") else 0))
    else:
        count = float(value) if abs(value) < 1e9 else 1e9
    if not 0.001 <= count <= 100_000:
        raise ValueError(f"{_said(value)} is out of range; CPUs are between 1m (a thousandth) and 100000")
    return count


def cuda(value: object) -> str:
    """Return a CUDA version as ``MAJOR.MINOR``.

    Args:
        value: text such as ``12.4`` or ``13``, or a number that can mean only one version.

    Raises:
        ValueError: it is no such version, or a number such as 12.1, which YAML also makes of 12.10.
    """
    wrong = f'{_said(value)} is not a CUDA version; write such as "12.4"'
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(wrong)
    text = value.strip() if isinstance(value, str) else _said(value)
    major, dot, minor = text.partition(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 3 for part in (major, minor if dot else "0")):
        raise ValueError(wrong)
    if not int(major):
        raise ValueError(wrong)
    if not isinstance(value, str) and minor == "1":
        raise ValueError(f'{text} can be {text} or {text}0, which are the same number; write it in quotes: "{text}" or "{text}0"')
    return f"{int(major)}.{int(minor or 0)}"
