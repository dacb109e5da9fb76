"""What the tests of lifecycles look at beside the metrics: attachments, links, files and children of an exporter."""

import os
import re
from pathlib import Path

from ebpf_userspace_exporter.worker.elf import ET_EXEC, Elf
from tests.product.exporter import Exporter, series, until

GRACE_SECONDS = 2.0
QUICK = ("--exit-grace", f"{GRACE_SECONDS:.0f}s")


def attachments(running: Exporter, pid: int, program: str = "gc_total") -> int:
    """Return how often the program was attached to that pid."""
    return len(re.findall(rf"msg=attached program={program} pid={pid} ", running.log))


def wait_attachments(running: Exporter, pid: int, number: int) -> None:
    """Wait until the program was attached to that pid so often."""
    until(lambda: attachments(running, pid) >= number, f"attached {number} times to {pid}; log:\n{running.log}")


def wait_detached(running: Exporter, pid: int) -> None:
    """Wait until the program is let go for that pid: its last values are in, and nothing counts any more."""
    until(lambda: f"msg=detached program=gc_total pid={pid} " in running.log, f"detached; log:\n{running.log}")


def counted(running: Exporter, pid: int) -> int | None:
    """Return how many collections of the youngest generation a scrape shows for that pid; None without a series."""
    value = running.value("gc_total", gen=0, pid=pid)
    return None if value is None else int(value)


def is_enabled(running: Exporter, pid: int, program: str = "gc_total") -> bool:
    """Whether a scrape shows the program as enabled for that pid."""
    return running.value("enabled_programs", name=program, pid=pid) is not None


def files_of(running: Exporter, pid: int) -> list[str]:
    """Return the names of what lies in the state directory for that pid."""
    return sorted(path.name for path in running.state_dir.glob(f"*_{pid}.db*"))


def series_of(running: Exporter, pid: int) -> list[str]:
    """Return the names of all samples with that pid that a scrape shows."""
    return sorted(name for name, labels in running.scrape() if ("pid", str(pid)) in labels)


def links(pid: int) -> set[str]:
    """Return the kernel's numbers of the BPF links that a process holds."""
    found = set()
    for descriptor in os.listdir(f"/proc/{pid}/fdinfo"):
        try:
            words = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text()
        except FileNotFoundError:
            continue
        found.update(re.findall(r"^link_id:\s+(\d+)$", words, re.MULTILINE))
    return found


def wait_gone(running: Exporter, pid: int) -> None:
    """Wait until no series and no file is left of that pid, scraping: what nobody has seen is kept longer."""
    until(lambda: not series_of(running, pid) and not files_of(running, pid), f"nothing of {pid}; log:\n{running.log}")


def only_worker(running: Exporter) -> int:
    """Wait until there is one worker; return its pid."""

    def one() -> int | None:
        workers = running.children("exporter-worker")
        return workers[0] if len(workers) == 1 else None

    return until(one, "one worker")


def state(running: Exporter, name: str, program: str = "gc_total") -> int:
    """Return how many targets of the program are in that state."""
    return int(running.scrape().get(series("targets", name=program, state=name), 0))


def is_stopped(pid: int) -> bool:
    """Whether SIGSTOP has had its effect."""
    return re.search(r"^State:\tT", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE) is not None


def patched_probes(pid: int) -> int:
    """Return at how many USDT locations the process's executable differs in memory from the file: breakpoints."""
    content = Path(f"/proc/{pid}/exe").read_bytes()
    elf = Elf(content)
    first = Path(f"/proc/{pid}/maps").read_text().split("-")[0]
    bias = 0 if elf.kind == ET_EXEC else int(first, 16) - elf.address_of(0)
    patched = 0
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for note in elf.sdt_notes():
            memory.seek(bias + note.location)
            offset = elf.file_offset(note.location)
            patched += memory.read(1) != content[offset : offset + 1]
    return patched
