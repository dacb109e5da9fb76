"""Looks up each name in its input, and says how often it has looked up which, and how often in vain.

    yes localhost | head -n 100 | python3 lookups.py

The answer to each line is JSON: all lookups by name, and those that failed, by name. A line `=NAME` takes an address
for NAME alone, so that nobody is asked.
"""

import json
import socket
import sys
from collections import Counter


def main() -> None:
    looked_up: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for line in sys.stdin:
        name = line.strip().removeprefix("=")
        looked_up[name] += 1
        try:
            socket.getaddrinfo(name, 80, flags=socket.AI_NUMERICHOST if line.startswith("=") else 0)
        except socket.gaierror:
            failed[name] += 1
        print(json.dumps({"lookups": looked_up, "failed": failed}), flush=True)


if __name__ == "__main__":
    main()
