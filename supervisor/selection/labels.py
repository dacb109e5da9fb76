"""What the series of a target have as labels, made from what /proc says of its process."""

import os
from collections.abc import Mapping

from ebpf_userspace_exporter.config.target_labels import Template
from ebpf_userspace_exporter.supervisor.selection.facts import Facts, Unreadable
from ebpf_userspace_exporter.worker.decoders.text import as_label

MAX_VALUE_CHARACTERS = 1024  # whoever runs the process chooses them; every series of the target has them

Labels = tuple[tuple[str, str], ...]


def render(templates: Mapping[str, Template], facts: Facts, groups: Mapping[str, str]) -> Labels:
    """Return names and values in the templates' order; what a process does not have, or cannot be read, is empty."""
    fields = {field for template in templates.values() for field in template.fields}
    values = {field: _text(_value(field, facts, groups)) for field in fields}
    return tuple((name, template.render(values)) for name, template in templates.items())


def _value(field: str, facts: Facts, groups: Mapping[str, str]) -> str | int | Unreadable | None:
    match field.split(".", 1):
        case ["cmdline", group]:
            return groups.get(group)
        case ["environ", name]:
            return facts.variable(name)
        case ["pid"]:
            return facts.process.pid
        case ["ppid"]:
            return facts.process.ppid
        case ["comm"]:
            return facts.process.comm
        case ["exe"]:
            return facts.exe
        case ["exe_base"]:
            return facts.exe if isinstance(facts.exe, Unreadable) else facts.exe.rpartition("/")[2]
        case ["user"]:
            return facts.user
        case ["uid"]:
            return facts.uid
        case ["cgroup"]:
            return facts.cgroup
        case ["systemd_unit"]:
            return facts.systemd_unit
        case ["container_id"]:
            return facts.container_id
    raise AssertionError(f"no field {field}, which parse_template would have refused")


def _text(value: str | int | Unreadable | None) -> str:
    if value is None or isinstance(value, Unreadable):
        return ""
    return as_label(os.fsencode(str(value)))[:MAX_VALUE_CHARACTERS]
