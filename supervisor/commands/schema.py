"""`schema`: what editors complete and check a config by."""

from ebpf_userspace_exporter.config.json_schema import config_schema
from ebpf_userspace_exporter.supervisor.commands.tables import show_json


def show_schema() -> int:
    """Write the JSON Schema of the config; return the exit code."""
    show_json(config_schema())
    return 0
