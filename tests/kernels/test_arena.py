"""Memory of weights and caches."""

from pathlib import Path

import psutil
import pytest

from memfirst.kernels.cpu import arena


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux")
def test_memory_asks_for_huge_pages_where_linux_gives_them() -> None:
    """Shared memory, Python's default for a map, stays on small pages unless the system is told otherwise."""
    memory = arena.allocate(8 << 20)
    memory[:] = 1
    mapping = next(m for m in _mappings() if m.start <= memory.ctypes.data < m.stop)
    assert mapping.permissions == "rw-p"
    enabled = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if enabled.exists():
        assert "hg" in mapping.flags
    assert memory.ctypes.data % arena.HUGE == 0


class Mapping:
    """One entry of smaps."""

    def __init__(self, text: str) -> None:
        first, *rest = text.splitlines()
        addresses, self.permissions = first.split()[:2]
        self.start, self.stop = (int(part, 16) for part in addresses.split("-"))
        self.flags = next((line.split()[1:] for line in rest if line.startswith("VmFlags")), [])


def _mappings() -> list[Mapping]:
    entries: list[list[str]] = []
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.split()[0].endswith(":"):
            entries[-1].append(line)
        else:
            entries.append([line])
    return [Mapping("\n".join(entry)) for entry in entries]


def test_memory_is_zero_and_of_the_size_asked_for() -> None:
    for nbytes in (0, 1, 4096, (2 << 20) + 1):
        memory = arena.allocate(nbytes)
        assert memory.nbytes == nbytes
        assert not memory.any()


def test_touching_gives_pages_and_leaves_what_is_written_after_it() -> None:
    memory = arena.allocate(40 << 20)
    touching = arena.Touching(memory)
    touching.stop()
    memory[:] = 1
    assert memory.all()
    before, whole = resident(), arena.allocate(40 << 20)
    touching = arena.Touching(whole)
    touching._thread.join()
    touching.stop()
    assert resident() - before >= 40 << 20 and not whole.any()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(psutil.Process().memory_info().rss)
