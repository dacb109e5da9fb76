"""`status`: what the running exporter says of its targets."""

import json
import socket
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebpf_userspace_exporter.supervisor.commands.tables import complain, show_json, show_table, show_text

CONTROL_SOCKET = "control.sock"  # as in state_dir, whose import takes longer than everything here
_SECONDS = 5.0
_MAX_BYTES = 256 << 20
_SHOWN_PIDS = 20  # of those that have one error


def show_status(state_dir: Path, *, as_json: bool) -> int:
    """Show the status of the exporter that has this state directory; return 1 where none answers."""
    try:
        document = _ask(state_dir / CONTROL_SOCKET)
    except PermissionError:
        complain(f"{state_dir / CONTROL_SOCKET}: permission denied; needs root, or the exporter's own user")
        return 1
    except OSError as error:
        complain(f"no exporter answers at {state_dir / CONTROL_SOCKET}: {error.strerror or error}")
        return 1
    except ValueError:
        complain(f"{state_dir / CONTROL_SOCKET}: what answers there is no exporter of this version")
        return 1
    if as_json:
        show_json(document)
    else:
        _show(document)
    return 0


def _ask(path: Path) -> Any:
    deadline = time.monotonic() + _SECONDS
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as control:
        control.settimeout(_SECONDS)
        try:
            control.connect(str(path))
            control.sendall(b"status\n")
            while not received.endswith(b"\n"):
                control.settimeout(max(0.001, deadline - time.monotonic()))
                part = control.recv(1 << 20)
                if not part or len(received) > _MAX_BYTES:
                    raise ConnectionResetError(0, "it hung up without an answer: it serves root and its own user")
                received += part
        except TimeoutError as error:
            raise TimeoutError(0, f"no answer within {_SECONDS:.0f} s") from error
    document = json.loads(received)
    if not isinstance(document, dict) or "programs" not in document:
        raise ValueError
    return document


def _show(document: dict[str, Any]) -> None:
    now = time.time()
    load = document["last_reload"]
    began = "ready" if document["ready"] else "not ready yet"
    show_text(f"ebpf-userspace-exporter {document['version']}, {began}, running for {_age(now - document['started'])}")
    show_text(f"config {'loaded' if load['successful'] else 'refused'} {_age(now - load['at'])} ago")
    show_text(load["error"], indent=2)
    show_table(
        ("program", "targets"),
        [
            (program["name"], ", ".join(f"{number} {state}" for state, number in program["targets"].items()) or "none")
            for program in document["programs"]
        ],
    )
    targets = document["targets"]
    if targets:
        show_text("\n")
        show_table(
            ("program", "pid", "state", "since", "attached in", "reason", "labels"), [_row(row, now) for row in targets]
        )
    for (program, error), pids in _errors(targets).items():
        more = f" and {len(pids) - _SHOWN_PIDS} more" if len(pids) > _SHOWN_PIDS else ""
        listed = ", ".join(map(str, pids[:_SHOWN_PIDS])) + more
        show_text(f"\n{program}, {'process' if len(pids) == 1 else 'processes'} {listed}:")
        show_text(error, indent=2)


def _errors(targets: Iterable[dict[str, Any]]) -> dict[tuple[str, str], list[int]]:
    """Return the pids that have each error of a program."""
    pids: dict[tuple[str, str], list[int]] = {}
    for target in targets:
        if target.get("error"):
            pids.setdefault((target["program"], target["error"]), []).append(target["pid"])
    return pids


def _row(target: dict[str, Any], now: float) -> tuple[object, ...]:
    seconds = target.get("attach_seconds")
    return (
        target["program"],
        target["pid"],
        target["state"],
        _age(now - target["since"]) if "since" in target else None,
        None if seconds is None else f"{seconds:.3f} s",
        target.get("reason"),
        ", ".join(f"{name}={value}" for name, value in target.get("labels", {}).items()),
    )


def _age(seconds: float) -> str:
    """Return a time span in its two largest units."""
    whole = max(0, int(seconds))
    units = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
    parts: list[str] = []
    for unit, length in units:
        number, whole = divmod(whole, length)
        if number or parts or unit == "s":
            parts.append(f"{number}{unit}")
    return " ".join(parts[:2])
