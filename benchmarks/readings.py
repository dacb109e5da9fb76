"""What /proc says of a process, and how it is shown."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Memory:
    """A process's resident memory in kB: `uss` is what only it has (Private_Clean + Private_Dirty), `rss` all of it.

    `pss` has of what is shared the process's part.
    """

    uss: int
    rss: int
    pss: int


def memory(pid: int) -> Memory:
    """Return what /proc/PID/smaps_rollup says."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kilobytes = {name: int(number) for name, number in re.findall(r"^(\w+): +(\d+) kB$", text, re.MULTILINE)}
    return Memory(kilobytes["Private_Clean"] + kilobytes["Private_Dirty"], kilobytes["Rss"], kilobytes["Pss"])


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used by itself, in user and in kernel mode."""
    return _ticks(pid, 11) / TICKS_A_SECOND


def exact_cpu_seconds(pid: int) -> float:
    """Return the same to the nanosecond and not to the tick, from the process's own clock, clock_getcpuclockid(3)."""
    return time.clock_gettime(~pid << 3 | 2)


def peak_kilobytes(pid: int) -> int:
    """Return the most memory that a process has ever had resident."""
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def reaped_cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process's children that have ended and were waited for."""
    return _ticks(pid, 13) / TICKS_A_SECOND


def voluntary_switches(pid: int) -> int:
    """Return how often a process has gone to sleep by itself, which is how often it was woken."""
    found = re.search(r"^voluntary_ctxt_switches:\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def spread(numbers: Sequence[float], digits: int) -> list[str]:
    """Return least, median and greatest."""
    return [f"{number:.{digits}f}" for number in (min(numbers), median(numbers), max(numbers))]


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows below their columns as a table of Markdown, the first to the left, numbers to the right."""
    widths = [max(3, *map(len, column)) for column in zip(columns, *rows, strict=True)]
    rule = ["-" * width if place == 0 else "-" * (width - 1) + ":" for place, width in enumerate(widths)]
    print(f"\n{title}\n")
    for row in (columns, rule, *rows):
        first, *others = (
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print(f"| {' | '.join([first, *others])} |")
    print()


def print_conditions() -> None:
    """Say when and on what was measured; a load above 0 before anything runs is other people's."""
    system, loads = os.uname(), ", ".join(f"{load:.1f}" for load in os.getloadavg())
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)  # x86 has it
    machine = f"{os.cpu_count()} cores of {model[1]}" if model else f"{os.cpu_count()} cores"
    today = time.strftime("%Y-%m-%d", time.gmtime())
    print(f"{today}, Linux {system.release} {system.machine}, {machine}; load before: {loads}")


def _ticks(pid: int, user: int) -> int:
    """Return the sum of a field of /proc/PID/stat, counted from the state, and the next: user mode, kernel mode."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2].split()
    return int(fields[user]) + int(fields[user + 1])
