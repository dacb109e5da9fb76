"""What the operator wants, checked once; imports nothing of ours."""
