#!/usr/bin/python3 -I
"""runc, but the default seccomp profile lets BPF and PERFMON do what they are for, as containerd's and Docker's does.

podman 4 wants SYS_ADMIN for these calls, and `podman kube play` takes no other profile for RuntimeDefault.
"""

import json
import os
import sys
from pathlib import Path

CALLS = {"bpf": "CAP_BPF", "perf_event_open": "CAP_PERFMON"}


def main() -> None:
    """Change the new container's configuration, if this makes one, and become runc."""
    arguments = sys.argv[1:]
    if "create" in arguments:
        path = Path(arguments[arguments.index("--bundle") + 1]) / "config.json"
        config = json.loads(path.read_text())
        if profile := config["linux"].get("seccomp"):
            allow(profile, set(config["process"].get("capabilities", {}).get("bounding", ())))
            path.write_text(json.dumps(config))
    os.execvp("runc", ["runc", *arguments])  # noqa: S606


def allow(profile: dict[str, list[dict[str, object]]], capabilities: set[str]) -> None:
    """Have the profile allow each call to who has its capability."""
    allowed = [call for call, capability in CALLS.items() if capability in capabilities]
    for rule in profile["syscalls"]:
        names = rule["names"]
        assert isinstance(names, list)
        rule["names"] = [name for name in names if name not in allowed]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]]
    if allowed:
        profile["syscalls"].append({"names": allowed, "action": "SCMP_ACT_ALLOW"})


if __name__ == "__main__":
    main()
