"""Control groups of both versions, as directories laid out the way the kernel documents them."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrypoint.runtime import cgroup


def layout(folder: Path, version: int, inside: str = "") -> tuple[str, str]:
    """Write one group's files and return (root, membership file)."""
    root = folder / "cgroup"
    group = root / inside.lstrip("/") if version == 2 else root / "memory" / inside.lstrip("/")
    group.mkdir(parents=True)
    if version == 2:
        (group / "memory.events").write_text("low 0\nhigh 0\nmax 12\noom 2\noom_kill 3\noom_group_kill 0\n")
        (group / "memory.max").write_text("1048576\n")
        (group / "memory.current").write_text("4096\n")
        (group / "memory.peak").write_text("8192\n")
        (folder / "self").write_text(f"0::/{inside}\n")
    else:
        (group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
        (group / "memory.limit_in_bytes").write_text("1048576\n")
        (group / "memory.usage_in_bytes").write_text("4096\n")
        (group / "memory.max_usage_in_bytes").write_text("8192\n")
        (folder / "self").write_text(f"8:pids:/\n4:cpuset,memory:/{inside}\n0::/\n")
    return str(root), str(folder / "self")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("inside", ["", "docker/abc"])
def test_counters(tmp_path: Path, version: int, inside: str) -> None:
    group = cgroup.memory(*layout(tmp_path, version, inside))
    assert group is not None
    assert group.version == version
    assert (group.oom_kills(), group.limit(), group.current(), group.peak()) == (3, 1048576, 4096, 8192)


@pytest.mark.parametrize("version", [1, 2])
def test_in_a_container_the_mount_is_the_group(tmp_path: Path, version: int) -> None:
    root, membership = layout(tmp_path, version)
    # The kernel names the group as the host sees it, and that path is not there in the container's mount.
    text = Path(membership).read_text()
    Path(membership).write_text(text.replace("memory:/", "memory:/docker/abc").replace("0::/", "0::/docker/abc"))
    group = cgroup.memory(root, membership)
    assert group is not None
    assert group.oom_kills() == 3


@pytest.mark.parametrize(
    ("version", "file", "text"), [(1, "memory/memory.limit_in_bytes", "9223372036854771712"), (2, "memory.max", "max")]
)
def test_no_limit(tmp_path: Path, version: int, file: str, text: str) -> None:
    root, membership = layout(tmp_path, version)
    (Path(root) / file).write_text(text + "\n")
    group = cgroup.memory(root, membership)
    assert group is not None
    assert group.limit() is None


def test_no_control_groups(tmp_path: Path) -> None:
    assert cgroup.memory(str(tmp_path), str(tmp_path / "none")) is None


def test_peak_is_unknown_before_linux_5_19(tmp_path: Path) -> None:
    root, membership = layout(tmp_path, 2)
    (Path(root) / "memory.peak").unlink()
    group = cgroup.memory(root, membership)
    assert group is not None
    assert group.peak() is None
