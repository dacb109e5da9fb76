"""What tells targets apart in the series: labels made from a template over what is known of a process."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

from ebpf_userspace_exporter.config.errors import quote, suggestion
from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.patterns import named_groups
from ebpf_userspace_exporter.config.selector import Selector

# What a template may ask for by name; `cmdline.GROUP` and `environ.NAME` beside them.
FIELDS = (
    "pid",
    "ppid",
    "comm",
    "exe",
    "exe_base",
    "user",
    "uid",
    "cgroup",
    "systemd_unit",
    "container_id",
)
_GROUP = re.compile(r"cmdline\.[A-Za-z_][A-Za-z0-9_]*")
_VARIABLE = re.compile(r"environ\.[^=\s{}]+")


class TemplateError(ValueError):
    """The text is no template; the message says what was expected."""


@dataclass(frozen=True, slots=True)
class Template:
    """Texts and the fields between them: `texts` has one more than `fields`."""

    texts: tuple[str, ...]
    fields: tuple[str, ...]

    def render(self, values: Mapping[str, str]) -> str:
        """Return the label's text; a field without a value is empty."""
        parts = [self.texts[0]]
        for field, text in zip(self.fields, self.texts[1:], strict=True):
            parts += (values.get(field, ""), text)
        return "".join(parts)


def parse_template(text: str) -> Template:
    """Return the template: `{field}` stands for a value, `{{` and `}}` for braces; TemplateError."""
    texts, fields = [""], []
    try:
        for literal, field, conversion, specification in _pieces(text):
            texts[-1] += literal
            if field is None:
                continue
            if conversion or specification:
                raise TemplateError(f"expected {quote(field)} without a format, got {quote(text)}")
            if field not in FIELDS and not _GROUP.fullmatch(field) and not _VARIABLE.fullmatch(field):
                known = f"; expected one of {', '.join(FIELDS)}, cmdline.GROUP, environ.NAME"
                raise TemplateError(f"no field {quote(field)}{suggestion(field, FIELDS) or known}")
            fields.append(field)
            texts.append("")
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(f"expected fields in pairs of braces, a brace itself twice, got {quote(text)}") from error
    return Template(tuple(texts), tuple(fields))


def _pieces(text: str) -> Iterator[tuple[str, str | None, str | None, str | None]]:
    for literal, field, specification, conversion in Formatter().parse(text):
        yield literal, field, conversion, specification


def target_labels(program: Program) -> dict[str, Template]:
    """Return the labels by which a program's targets differ, in their order; TemplateError.

    A named group of a `cmdline` pattern is a label of its own name, unless a template already has it in.
    """
    templates = {name: parse_template(text) for name, text in program.target_labels.items()}
    used = {field for template in templates.values() for field in template.fields}
    groups = [name for name in cmdline_groups(program.attachment) if f"cmdline.{name}" not in used]
    return {**{name: Template(("", ""), (f"cmdline.{name}",)) for name in groups if name not in templates}, **templates}


def cmdline_groups(selector: Selector) -> tuple[str, ...]:
    """Return the named groups of the selector's `cmdline` patterns, also of those under `any`, each once."""
    names: dict[str, None] = {}
    for pattern in selector.cmdline:
        names.update(dict.fromkeys(named_groups(pattern)))
    for alternative in selector.any_of:
        names.update(dict.fromkeys(cmdline_groups(alternative)))
    return tuple(names)


def is_aggregated(program: Program) -> bool:
    """Whether several targets may have the same labels: their series are summed and outlive each of them."""
    return all("pid" not in template.fields for template in target_labels(program).values())
