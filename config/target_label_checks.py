"""What the labels of a program's targets must hold: names of their own, and templates over what there is."""

from collections.abc import Iterator, Mapping

from ebpf_userspace_exporter.config.errors import KeyPath, quote, suggestion
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import Program
from ebpf_userspace_exporter.config.names import label_name_problem
from ebpf_userspace_exporter.config.patterns import named_groups
from ebpf_userspace_exporter.config.selector import Selector
from ebpf_userspace_exporter.config.target_labels import TemplateError, parse_template


def check_target_labels(program: Program, path: KeyPath, findings: Findings) -> Mapping[str, KeyPath]:
    """Record what is wrong with a program's target labels; return them all, each with the path that it comes from."""
    groups: dict[str, KeyPath] = {}
    for name, group_path in _groups(program.attachment, (*path, "attachment")):
        groups.setdefault(name, group_path)
    labels: dict[str, KeyPath] = {}
    used: dict[str, KeyPath] = {}
    for name, text in program.target_labels.items():
        labels[name] = label_path = (*path, "target_labels", name)
        if (problem := label_name_problem(name)) is not None:
            findings.problem(label_path, problem)
        elif name == "le" and program.metrics.histograms:
            findings.problem(label_path, '"le" is taken: a histogram has the upper bound in it')
        used.update(dict.fromkeys(_groups_used(text, label_path, findings), label_path))
    if not (findings.is_flawless((*path, "attachment")) and findings.is_flawless((*path, "target_labels"))):
        return labels  # what groups there are, or which of them the templates use, is not known
    unknown = [name for name in used if name not in groups]
    for name in unknown:
        message = f"no pattern of attachment.cmdline has a group {quote(name)}{suggestion(name, groups)}"
        findings.problem(used[name], message)
    if unknown:
        return labels
    own = {name: group_path for name, group_path in groups.items() if name not in used}
    for name, group_path in own.items():
        _check_group(name, group_path, labels, findings, is_le_taken=bool(program.metrics.histograms))
    return {**own, **labels}


def _groups_used(text: str, path: KeyPath, findings: Findings) -> Iterator[str]:
    """Yield the groups that a template names; record where it is none."""
    if not text:
        findings.problem(path, "is empty; expected a text or fields such as {pid}")
        return
    try:
        fields = parse_template(text).fields
    except TemplateError as error:
        findings.problem(path, str(error))
        return
    for field in fields:
        kind, dot, name = field.partition(".")
        if dot and kind == "cmdline":
            yield name


def _check_group(
    name: str, path: KeyPath, labels: Mapping[str, KeyPath], findings: Findings, *, is_le_taken: bool
) -> None:
    if (problem := label_name_problem(name)) is not None:
        findings.problem(path, f"a named group becomes a label: {problem}")
    elif name == "le" and is_le_taken:
        findings.problem(path, 'a named group becomes a label: "le" is taken: a histogram has the upper bound in it')
    elif name in labels:
        message = f"the named group {quote(name)} becomes a label, but target_labels has one of this name"
        findings.problem(path, f"{message}; expected another name, or {{cmdline.{name}}} there", path, labels[name])


def _groups(selector: Selector, path: KeyPath) -> Iterator[tuple[str, KeyPath]]:
    """Yield the named groups that become labels: those of `cmdline`, also under `any`."""
    for index, pattern in enumerate(selector.cmdline):
        for name in named_groups(pattern):
            yield name, (*path, "cmdline", index)
    for index, alternative in enumerate(selector.any_of):
        yield from _groups(alternative, (*path, "any", index))
