"""The kernel's BPF interface, by raw system calls: maps, programs, links. No libbcc, no clang."""
