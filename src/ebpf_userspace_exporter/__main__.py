"""`python -m ebpf_userspace_exporter` is the command."""

from ebpf_userspace_exporter.supervisor.__main__ import main

if __name__ == "__main__":
    main()
