"""Runs the real command as a user would, as root or as nobody."""

import os
import pty
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
SECONDS = 240  # a compile takes a second of a quiet machine


def command(
    *arguments: object, nobody: bool = False, folder: Path = Path("/"), **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Return what the command wrote, and its exit code; stdout is no terminal."""
    as_nobody = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if nobody and os.geteuid() == 0 else {}
    done = subprocess.run(
        [sys.executable, "-m", "ebpf_userspace_exporter", *map(str, arguments)],
        cwd=folder,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        **as_nobody,  # type: ignore[call-overload]  # the keywords of setuid and its like
    )
    assert "Traceback" not in done.stdout + done.stderr, done
    return done  # type: ignore[no-any-return]  # as above


def on_terminal(*arguments: object, **environment: str) -> str:
    """Return what the command writes on a terminal, of 120 columns unless COLUMNS says otherwise."""
    ours, theirs = pty.openpty()
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "ebpf_userspace_exporter", *map(str, arguments)],
            cwd="/",
            env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "120", **environment},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
        )
    finally:
        os.close(theirs)
    written = b""
    try:
        while part := os.read(ours, 65536):
            written += part
    except OSError:
        pass  # EIO: the other end is closed
    finally:
        os.close(ours)
        process.wait(SECONDS)
    return written.decode()
