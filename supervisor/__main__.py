"""The entry point of the command and of `python -m`."""

# First, so that what workers use lies together: what one of them touches becomes its own by whole pages.
import ebpf_userspace_exporter.worker.process  # noqa: F401

# isort: split
from ebpf_userspace_exporter.supervisor.cli import PROGRAM, cli


def main() -> None:
    """Run the command line; it ends in SystemExit."""
    cli(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
