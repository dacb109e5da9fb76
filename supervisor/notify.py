"""Tells systemd how we are, where systemd asked (sd_notify(3))."""

import os
import socket
import time


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
