"""The subcommands: each module returns the exit code of its command; the command line itself is in cli.py."""
