"""The device a model runs on, and what the operating system knows about it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import platform
import sys
from pathlib import Path

from spade_keras.typing import Record


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class Device(Record):
    """A compute device.

    Args:
        kind: "cpu" or "gpu".
        name: The maker's name of the processor.
        memory_bytes: Its memory; None if unknown.
        cores: CPU cores that this process may use; on a GPU they still feed it.
    """

    kind: str
    name: str
    memory_bytes: int | None
    cores: int = dataclasses.field(default_factory=_usable_cores)


@functools.cache
def host_cpu() -> Device:
    """Describes the CPU of this machine as far as this process may use it."""
    return Device("cpu", _cpu_name(), _host_memory_bytes())


def peak_resident_bytes() -> int | None:
    """Returns the peak resident memory of this process; None where it is not known."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset_peak_resident() -> bool:
    """Starts a new peak for `peak_resident_bytes`; False where the system cannot (not Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _host_memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
