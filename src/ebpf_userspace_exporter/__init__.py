"""Prometheus metrics from probes in running programs."""

__version__ = "0.1.0"
