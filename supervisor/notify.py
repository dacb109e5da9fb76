"""Tells systemd how we are, where systemd asked (sd_notify(3))."""

import os
import socket
import time
from collections.abc import Mapping
from math import inf


def notify(*states: str) -> None:
    """Send `states` to the service manager; without one, or if it does not listen, nothing happens."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK) as channel:
        try:
            channel.sendto("\n".join(states).encode(), address)
        except OSError:
            return


def reloading() -> tuple[str, str]:
    """Return what a service of Type=notify-reload says when it begins to reload."""
    return "RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}"


class Watchdog:
    """Says from time to time that the loop still turns, where systemd wants to hear it (WatchdogSec=)."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        """`environment` is as sd_watchdog_enabled(3) reads it."""
        text = environment.get("WATCHDOG_USEC", "")
        microseconds = int(text) if text.isdecimal() else 0
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._interval = microseconds / 2e6
        self._next = 0.0 if microseconds and is_ours else inf

    def ping(self, now: float) -> None:
        """Say so if it is time."""
        if now >= self._next:
            notify("WATCHDOG=1")
            self._next = now + self._interval

    def next_deadline(self) -> float:
        """Return when it is time."""
        return self._next
