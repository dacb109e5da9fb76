"""Run benchmarks one after another and keep what they print; see scripts/bench."""

import argparse
import ast
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.results import keep, question

_LONG = ("thousand",)  # ten minutes


def main() -> None:
    """Run those that were named, or all; exit with 1 where one ends otherwise than with 0."""
    names = _names()
    parser = argparse.ArgumentParser(prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.epilog = "\n".join(["benchmarks:", *(f"  {name:<16}{question(name).splitlines()[0]}" for name in names)])
    parser.add_argument("--long", action="store_true", help=f"without names: {', '.join(_LONG)} too")
    parser.add_argument("names", nargs="*", metavar="NAME", help="which; all by default")
    options = parser.parse_args()
    if unknown := sorted({*options.names} - {*names}):
        parser.error(f"no benchmark {', '.join(unknown)}")
    wanted = options.names or [name for name in names if options.long or name not in _LONG]
    failed = [name for name in wanted if not _has_run(name)]
    if failed:
        sys.exit(f"bench: failed, or a goal missed: {', '.join(failed)}")


def _names() -> list[str]:
    """Return the benchmarks: the modules here with a `main` that needs no arguments and prints what it has measured."""
    found = []
    for path in sorted(Path(__file__).parent.glob("[!_]*.py")):
        functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
        if any(each.name == "main" and not each.args.args for each in functions):
            found.append(path.stem)
    return found


def _has_run(name: str) -> bool:
    """Run one, show and keep what it prints; false where it has failed or says by its status that a goal is missed."""
    print(f"== {name} ==\n", flush=True)
    command = [sys.executable, "-m", f"benchmarks.{name}"]
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        lines.append(f"\nit ended with status {process.returncode}\n")
    keep(name, "".join(lines))
    print()
    return process.returncode == 0


if __name__ == "__main__":
    main()
