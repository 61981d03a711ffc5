"""Durations, memory and CPUs as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.config import quantities


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (90, 90.0),
        (0, 0.0),
        (1.5, 1.5),
        ("90s", 90.0),
        ("1h30m", 5400.0),
        ("2h", 7200.0),
        ("500ms", 0.5),
        ("2d", 172800.0),
        (" 1.5h ", 5400.0),
        ("1m30s", 90.0),
        ("0s", 0.0),
    ],
)
def test_duration(value: object, seconds: float) -> None:
    assert quantities.duration(value) == seconds


@pytest.mark.parametrize(
    "value", ["", "90", "2hours", "h", "1h-30m", "-1s", "1..5s", "1e3s", "٣s", -1, True, None, [], 1e300, "9999d", "9" * 99 + "s"]
)
def test_wrong_duration(value: object) -> None:
    with pytest.raises(ValueError, match=r"duration|longest"):
        quantities.duration(value)


@pytest.mark.parametrize(
    ("value", "amount"),
    [
        ("16Gi", 16 << 30),
        ("512Mi", 512 << 20),
        ("1.5Gi", 3 << 29),
        ("2G", 2_000_000_000),
        ("2000k", 2_000_000),
        ("1e9", 10**9),
        ("1E9", 10**9),
        (2**30, 2**30),
        (1e9, 10**9),
        ("0.1Gi", 107374183),
        ("1Ei", 1 << 60),
    ],
)
def test_memory(value: object, amount: int) -> None:
    assert quantities.memory(value) == amount


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("16", "write the unit too, such as 16Gi"),
        (16, "write the unit too, such as 16Gi"),
        ("512m", "write 512Mi or 512M"),
        ("lots", "write such as 512Mi"),
        ("16GB", "write such as 512Mi"),
        ("1e9Gi", "write such as 512Mi"),
        ("-1Gi", "write such as 512Mi"),
        ("2Ei", "more than 1Ei"),
        ("1e999", "more than 1Ei"),
        (True, "write such as 512Mi"),
        (None, "write such as 512Mi"),
    ],
)
def test_wrong_memory(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        quantities.memory(value)


@pytest.mark.parametrize(("value", "count"), [(4, 4.0), (0.5, 0.5), ("500m", 0.5), ("2", 2.0), ("1.5", 1.5)])
def test_cpu(value: object, count: float) -> None:
    assert quantities.cpu(value) == count


@pytest.mark.parametrize("value", [0, -1, "0", "m", "2 cores", True, None, 10**400, "0.1m", 1e9])
def test_wrong_cpu(value: object) -> None:
    with pytest.raises(ValueError, match="CPUs"):
        quantities.cpu(value)


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.booleans(), st.none()))
def test_whatever_is_written_the_answer_is_a_number_or_a_valueerror(value: object) -> None:
    for reader in (quantities.duration, quantities.memory, quantities.cpu):
        try:
            number = reader(value)
        except ValueError:
            continue
        assert number >= 0
        assert reader(number) == number


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("12.4", "12.4"),
        (12.4, "12.4"),
        (13, "13.0"),
        (12.0, "12.0"),
        ("13", "13.0"),
        ("12.10", "12.10"),
        ("12.1", "12.1"),
        (" 11.8 ", "11.8"),
        ("12.04", "12.4"),
    ],
)
def test_cuda(value: object, wanted: str) -> None:
    assert quantities.cuda(value) == wanted


@pytest.mark.parametrize(
    "value", ["", "12.", ".4", "12.4.1", "v12", "12.x", "-1", "100", "0", "0.4", True, None, [], 1e300, -12.4, "१२"]
)
def test_cuda_that_is_none(value: object) -> None:
    with pytest.raises(ValueError, match="is not a CUDA version; write such as"):
        quantities.cuda(value)


def test_cuda_that_yaml_can_not_tell() -> None:
    with pytest.raises(ValueError, match=r'write it in quotes: "12\.1" or "12\.10"'):
        quantities.cuda(12.10)


@given(st.integers(1, 99), st.integers(0, 99))
def test_a_cuda_version_is_its_own(major: int, minor: int) -> None:
    text = quantities.cuda(f"{major}.{minor}")
    assert quantities.cuda(text) == text == f"{major}.{minor}"
