"""Names for addresses in a live process, through the files that it really maps."""
