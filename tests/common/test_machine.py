"""What a machine is made of, read from made-up trees and from this one."""

from __future__ import annotations

from pathlib import Path

from uhlm_edge.common.machine import read_machine


def put(root: Path, path: str, content: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content + "\n")


def processors(root: Path, cores: list[int], capacity: list[int] | None = None) -> None:
    """One processor per entry, on that core."""
    text = "\n\n".join(f"processor\t: {i}\nflags\t: sse avx2" for i in range(len(cores)))
    put(root, "proc/cpuinfo", text)
    for i, core in enumerate(cores):
        folder = f"sys/devices/system/cpu/cpu{i}"
        put(root, f"{folder}/topology/core_id", str(core))
        put(root, f"{folder}/topology/physical_package_id", "0")
        if capacity is not None:
            put(root, f"{folder}/cpu_capacity", str(capacity[i]))


def test_two_threads_of_one_core_count_once(tmp_path: Path) -> None:
    processors(tmp_path, [0, 1, 2, 3, 0, 1, 2, 3])
    machine = read_machine(tmp_path)
    assert (machine.logical, machine.cores) == (8, 4)
    assert "avx2" in machine.features


def test_slow_cores_of_a_mixed_processor_get_no_thread(tmp_path: Path) -> None:
    processors(tmp_path, [0, 1, 2, 3, 4, 5], [414, 414, 414, 414, 1024, 1024])
    assert read_machine(tmp_path).cores == 2


def test_a_container_s_share_of_time_bounds_the_cores(tmp_path: Path) -> None:
    processors(tmp_path, list(range(16)))
    put(tmp_path, "sys/fs/cgroup/cpu.max", "150000 100000")
    assert read_machine(tmp_path).cores == 2
    put(tmp_path, "sys/fs/cgroup/cpu.max", "max 100000")
    assert read_machine(tmp_path).cores == 16


def test_a_container_s_limit_of_memory_counts_and_not_the_host_s(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 6000 kB")
    assert read_machine(tmp_path).available == 6000 * 1024
    put(tmp_path, "sys/fs/cgroup/memory.max", str(2000 * 1024))
    put(tmp_path, "sys/fs/cgroup/memory.current", str(500 * 1024))
    machine = read_machine(tmp_path)
    assert (machine.memory, machine.available) == (2000 * 1024, 1500 * 1024)


def test_what_a_machine_does_not_say_is_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.board, machine.memory, machine.available) == (None, None, None)
    assert machine.features == frozenset()
    assert machine.cores == 1


def test_this_machine_has_a_core_and_memory_for_the_tests() -> None:
    machine = read_machine()
    assert 1 <= machine.cores <= machine.logical
