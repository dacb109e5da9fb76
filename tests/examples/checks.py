"""What every example's config is held to, against the process that it is made for."""

import subprocess
import sys
from pathlib import Path


def strict_check_says(config: Path, pid: int) -> list[str]:
    """Return what `check --strict` has to say of a config and a process: nothing, if all is well."""
    command = [sys.executable, "-m", "ebpf_userspace_exporter", "check", "--strict", "--pid", str(pid), str(config)]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd="/")
    said = checked.stderr.splitlines()
    assert (checked.returncode == 0) == (not said), checked.stdout
    return said
