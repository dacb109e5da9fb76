"""What one would write with bcc alone: compile and attach one program for one process, until stdin ends.

    bcc_attach.py PID PROBE FUNCTION CODE

It imports nothing of ours, so that it has nothing of ours in its memory.
"""

import sys

from bcc import BPF, USDT


def main(pid: str, probe: str, function: str, code: str) -> None:
    """Attach, say so, and wait."""
    usdt = USDT(pid=int(pid))
    usdt.enable_probe(probe=probe, fn_name=function)
    bpf = BPF(text=code, usdt_contexts=[usdt])
    sys.stdout.write("attached\n")
    sys.stdout.flush()
    sys.stdin.read()
    # Lowers the probe's semaphore in the target.
    del bpf, usdt


if __name__ == "__main__":
    main(*sys.argv[1:])
