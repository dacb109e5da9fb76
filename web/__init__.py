"""Reads metric files, serves /metrics; without any capability, and knowing nothing of the other packages."""
