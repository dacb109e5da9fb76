"""Writes and reads a file and connects to ports, as many times as each line of its input says, and keeps count.

    yes 9 | python3 files.py /var/tmp/files.tmp

The answer to a line, or to several that came together, is JSON: how many calls, bytes and errors so far, by call. It
counts what it reads here and what it answers too, but for the answer that is just being given.
"""

import json
import os
import socket
import sys
from collections import Counter

calls: Counter[str] = Counter()
moved: Counter[str] = Counter()
errors: Counter[str] = Counter()


def main() -> None:
    # Without sys.stdin and sys.stdout, whose buffers call when they like.
    while lines := read(0, 4096):
        for _ in range(sum(map(int, lines.split()))):
            use_file(sys.argv[1])
            use_sockets()
        answer = json.dumps({"calls": calls, "bytes": moved, "errors": errors})
        write(1, answer.encode() + b"\n")


def use_file(path: str) -> None:
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC)
    write(file, b"x" * 4096)
    os.lseek(file, 0, os.SEEK_SET)
    while read(file, 1500):
        pass
    os.close(file)


def use_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        connect(server.getsockname()[1])
    connect(1)  # nobody listens there


def read(file: int, size: int) -> bytes:
    calls["read"] += 1
    piece = os.read(file, size)
    moved["read"] += len(piece)
    return piece


def write(file: int, piece: bytes) -> None:
    calls["write"] += 1
    moved["write"] += os.write(file, piece)


def connect(port: int) -> None:
    calls["connect"] += 1
    with socket.socket() as client:
        try:
            client.connect(("127.0.0.1", port))
        except ConnectionRefusedError:
            errors["connect"] += 1


if __name__ == "__main__":
    main()
