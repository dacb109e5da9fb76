"""The entry point of the command and of `python -m`."""

from ebpf_userspace_exporter.supervisor.cli import PROGRAM, cli


def main() -> None:
    """Run the command line; it ends in SystemExit."""
    cli(prog_name=PROGRAM)


if __name__ == "__main__":
    main()
