"""A signal's number."""

import signal

from ebpf_userspace_exporter.worker.decoders.number import as_number


def decode_signal(raw: bytes) -> str:
    """Return 1, 4 or 8 bytes as the signal's name: `SIGTERM`, `SIGRTMIN+3`; DecodeError for other sizes.

    Real-time signals are counted from libc's SIGRTMIN, not from the kernel's. What is no signal's number stays a
    number: 0, which kill(2) takes for "is it there", and 32 and 33, which libc keeps for itself.
    """
    number = as_number("signal", raw, 1, 4, 8)
    if signal.SIGRTMIN < number <= signal.SIGRTMAX:
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
