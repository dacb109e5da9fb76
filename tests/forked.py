"""Which processes the tests' own has forked."""

import os
from pathlib import Path


def children_of_ours() -> set[int]:
    """Return the children that we have, those that nobody has waited for included; other tests' may be among them."""
    return {int(word) for word in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}
