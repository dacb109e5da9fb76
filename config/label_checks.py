"""What a metric's labels must hold: names that are free, and sizes that make up a key."""

from collections.abc import Mapping

from ebpf_userspace_exporter.config.decoder_checks import check_decoders
from ebpf_userspace_exporter.config.errors import KeyPath, quote
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import MAX_KEY_BYTES, Label
from ebpf_userspace_exporter.config.names import label_name_problem

MAX_LABELS = 64


def check_labels(
    labels: tuple[Label, ...],
    path: KeyPath,
    findings: Findings,
    *,
    target_labels: Mapping[str, KeyPath],
    is_histogram: bool = False,
) -> None:
    """Record what is wrong with a metric's labels; the last of a histogram's is the bucket.

    `target_labels` are those of its program, each with the path that it comes from.
    """
    seen: set[str] = set()
    for index, label in enumerate(labels):
        is_last = index == len(labels) - 1
        is_bucket = is_histogram and is_last
        label_path = (*path, index)
        name_path = (*label_path, "name")
        if (problem := label_name_problem(label.name)) is not None:
            findings.problem(name_path, problem)
        elif label.name in target_labels and not is_bucket:
            message = f"{quote(label.name)} is taken: every series has the target label of this name"
            findings.problem(name_path, message, name_path, target_labels[label.name])
        elif label.name == "le" and is_histogram and not is_bucket:
            findings.problem(name_path, '"le" is taken: a histogram has the upper bound in it')
        if label.name in seen:
            findings.problem(name_path, f"a second label named {quote(label.name)}")
        seen.add(label.name)
        if label.is_cpu and not label.model_fields_set & {"size", "decoders"}:
            _check_cpu(label, label_path, findings, is_last=is_last, is_histogram=is_histogram)
        else:
            _check_key_part(label, label_path, findings, is_bucket=is_bucket)
    key_bytes = sum(label.size + label.padding for label in labels)
    if key_bytes > MAX_KEY_BYTES:
        findings.problem(path, f"sizes and paddings add up to {key_bytes} bytes; expected at most {MAX_KEY_BYTES}")
    count = len(labels) + len(target_labels)
    if count > MAX_LABELS:
        message = f"{count} labels, {len(target_labels)} target labels among them; expected at most {MAX_LABELS}"
        findings.problem(path, message)


def _check_cpu(label: Label, path: KeyPath, findings: Findings, *, is_last: bool, is_histogram: bool) -> None:
    """Record where a label that says which CPU a value is of cannot be."""
    if is_histogram:
        message = '"cpu" without a size splits a per-CPU map, which is not done for histograms; expected a size'
        findings.problem(path, message)
    elif not is_last:
        findings.problem(path, '"cpu" without a size splits a per-CPU map; expected it as the last label, or a size')
    if label.padding:
        findings.problem((*path, "padding"), '"cpu" without a size is no part of the key; expected no padding')


def _check_key_part(label: Label, path: KeyPath, findings: Findings, *, is_bucket: bool) -> None:
    if not label.size:
        is_given = "size" in label.model_fields_set
        message = "expected at least 1, got 0" if is_given else "missing; expected how many bytes of the key"
        findings.problem((*path, "size"), message)
    check_decoders(label, path, findings)
    if is_bucket and label.decoders and label.decoders[-1].name != "uint":
        message = 'the last label of a histogram is the bucket: expected "uint" as its last decoder'
        findings.problem((*path, "decoders"), message)
