"""What selectors say of processes: facts from /proc, three-valued verdicts on them, and why a verdict is what it is."""
