"""Asks the supervisor over its control socket; whatever goes wrong there is an answer, never an error here."""

import json
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAX_REFRESH_BYTES = 64
_MAX_READY_BYTES = 1 << 20
_MAX_STATUS_BYTES = 64 << 20
_MAX_RECEIVED_BYTES = 1 << 18  # in one call, which takes that much memory first
_REFRESHED = re.compile(rb"ok (\d{1,9}) (\d{1,9})\n")
# The supervisor gets less time than we wait, so that "one worker was late" still arrives in time.
_SUPERVISOR_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """How many workers wrote their files and how many missed the deadline; `ok` if the supervisor told."""

    fresh: int
    stale: int
    ok: bool


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the supervisor is through its first reconcile, and if not, why."""

    ready: bool
    reason: str


def refresh(socket_path: Path, deadline_seconds: float) -> RefreshResult:
    """Have the workers write their files and return when they did, at the latest after `deadline_seconds`."""
    request = f"refresh {deadline_seconds * _SUPERVISOR_SHARE:.3f}\n"
    answer = _ask(socket_path, request, deadline_seconds, _MAX_REFRESH_BYTES)
    refreshed = _REFRESHED.fullmatch(answer) if answer is not None else None
    if refreshed is None:
        return RefreshResult(fresh=0, stale=0, ok=False)
    return RefreshResult(fresh=int(refreshed[1]), stale=int(refreshed[2]), ok=True)


def readiness(socket_path: Path, deadline_seconds: float) -> Readiness:
    """Return whether the supervisor is ready, at the latest after `deadline_seconds`."""
    answer = _ask(socket_path, "ready\n", deadline_seconds, _MAX_READY_BYTES)
    if answer is None:
        return Readiness(ready=False, reason="the supervisor does not answer")
    match _parse(answer):
        case {"ready": True}:
            return Readiness(ready=True, reason="")
        case {"ready": False}:
            return Readiness(ready=False, reason="the first reconcile is not through")
        case _:
            return Readiness(ready=False, reason="the supervisor's answer is not understood")


def status(socket_path: Path, deadline_seconds: float) -> Mapping[str, Any] | None:
    """Return what the supervisor says of itself and its targets; None if it has not in time, or in other words."""
    answer = _ask(socket_path, "status\n", deadline_seconds, _MAX_STATUS_BYTES)
    document = _parse(answer) if answer is not None else None
    return document if isinstance(document, dict) and "targets" in document else None


def _parse(answer: bytes) -> object:
    try:
        return json.loads(answer)
    except (ValueError, RecursionError):
        return None


def _ask(socket_path: Path, request: str, deadline_seconds: float, max_answer_bytes: int) -> bytes | None:
    """Return the supervisor's line with its end, or None where none came in time."""
    deadline = time.monotonic() + deadline_seconds
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control:
            # A timeout makes the socket non-blocking: with a full backlog connect fails at once, it does not wait.
            control.settimeout(_remaining(deadline))
            control.connect(str(socket_path))
            control.sendall(request.encode())
            answer = bytearray()
            while not answer.endswith(b"\n") and len(answer) <= max_answer_bytes:
                control.settimeout(_remaining(deadline))
                received = control.recv(min(_MAX_RECEIVED_BYTES, max_answer_bytes + 1 - len(answer)))
                if not received:
                    return None
                answer += received
    except OSError:
        return None
    return bytes(answer) if answer.endswith(b"\n") else None


def _remaining(deadline: float) -> float:
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
