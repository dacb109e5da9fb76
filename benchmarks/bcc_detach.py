"""What one would write with bcc alone: attach functions to one process, and detach them when stdin ends.

    bcc_detach.py PID BINARY FUNCTION...

It says `attached`, then, when it has detached, how many seconds that took. It imports nothing of ours.
"""

import sys
import time

from bcc import BPF


def main(pid: str, binary: str, *functions: str) -> None:
    """Attach, say so, wait, detach, say so."""
    bpf = BPF(text="\n".join(f"int on_{function}(void *ctx) {{ return 0; }}" for function in functions))
    for function in functions:
        bpf.attach_uprobe(name=binary, sym=function, fn_name=f"on_{function}", pid=int(pid))
    sys.stdout.write("attached\n")
    sys.stdout.flush()
    sys.stdin.read()
    begin = time.monotonic()
    bpf.cleanup()
    sys.stdout.write(f"{time.monotonic() - begin}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
