"""What a metric's labels must hold: names that Prometheus takes, and decoders that can read the key's bytes."""

import re2

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES
from ebpf_userspace_exporter.config.errors import KeyPath, quote, suggestion_or_list
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import MAX_KEY_BYTES, Decoder, Label
from ebpf_userspace_exporter.config.names import LABEL_NAME

MAX_LABELS = 64
MAX_PATTERN = 4096


def check_labels(labels: tuple[Label, ...], path: KeyPath, findings: Findings, *, is_histogram: bool = False) -> None:
    """Record what is wrong with a metric's labels; the last of a histogram's is the bucket."""
    seen: set[str] = set()
    for index, label in enumerate(labels):
        is_bucket = is_histogram and index == len(labels) - 1
        label_path = (*path, index)
        _check_name(label.name, (*label_path, "name"), findings, is_le_taken=is_histogram and not is_bucket)
        if label.name in seen:
            findings.problem((*label_path, "name"), f"a second label named {quote(label.name)}")
        seen.add(label.name)
        _check_decoders(label, label_path, findings)
        if is_bucket and label.decoders and label.decoders[-1].name != "uint":
            message = 'the last label of a histogram is the bucket: expected "uint" as its last decoder'
            findings.problem((*label_path, "decoders"), message)
    key_bytes = sum(label.size + label.padding for label in labels)
    if key_bytes > MAX_KEY_BYTES:
        findings.problem(path, f"sizes and paddings add up to {key_bytes} bytes; expected at most {MAX_KEY_BYTES}")
    if len(labels) > MAX_LABELS:
        findings.problem(path, f"{len(labels)} labels; expected at most {MAX_LABELS}")


def _check_name(name: str, path: KeyPath, findings: Findings, *, is_le_taken: bool) -> None:
    if not LABEL_NAME.fullmatch(name):
        expected = "a label's name of letters, digits and _ that starts with no digit"
        findings.problem(path, f"expected {expected}, got {quote(name)}")
    elif name.startswith("__"):
        findings.problem(path, f"{quote(name)} starts with __, which Prometheus keeps for itself")
    elif name == "pid":
        findings.problem(path, '"pid" is taken: every series gets the process id in it')
    elif name == "le" and is_le_taken:
        findings.problem(path, '"le" is taken: a histogram has the upper bound in it')


def _check_decoders(label: Label, path: KeyPath, findings: Findings) -> None:
    if not label.decoders:
        findings.problem((*path, "decoders"), "is empty; expected a list of decoders")
    for index, decoder in enumerate(label.decoders):
        decoder_path = (*path, "decoders", index)
        if decoder.name not in DECODER_SIZES:
            message = f"no decoder {quote(decoder.name)}{suggestion_or_list(decoder.name, DECODER_SIZES)}"
            findings.problem((*decoder_path, "name"), message)
            continue
        _check_options(decoder, decoder_path, findings)
        sizes = DECODER_SIZES[decoder.name]
        if sizes is None:
            continue
        name_path = (*decoder_path, "name")
        if index:
            message = f"{decoder.name} reads the key's bytes: expected it first, not after {label.decoders[0].name}"
            findings.problem(name_path, message, name_path, (*path, "decoders", 0))
        elif label.size not in sizes:
            expected = _alternatives(sorted(sizes))
            message = f"{decoder.name} cannot decode {label.size} bytes; expected {expected}"
            findings.problem((*path, "size"), message, (*path, "size"), name_path)


def _check_options(decoder: Decoder, path: KeyPath, findings: Findings) -> None:
    name_path = (*path, "name")
    if decoder.name == "static_map":
        if not decoder.static_map:
            findings.problem((*path, "static_map"), "missing; expected a mapping of texts to texts")
    else:
        for option, is_given in (("static_map", bool(decoder.static_map)), ("allow_unknown", decoder.allow_unknown)):
            if is_given:
                option_path = (*path, option)
                findings.problem(option_path, f"is for the decoder static_map, not for {decoder.name}", name_path)
    if decoder.name == "regexp":
        if not decoder.regexps:
            findings.problem((*path, "regexps"), "missing; expected a list of regular expressions")
        for index, pattern in enumerate(decoder.regexps):
            _check_pattern(pattern, (*path, "regexps", index), findings)
    elif decoder.regexps:
        findings.problem((*path, "regexps"), f"is for the decoder regexp, not for {decoder.name}", name_path)


def _check_pattern(pattern: str, path: KeyPath, findings: Findings) -> None:
    if len(pattern) > MAX_PATTERN:
        findings.problem(path, f"{len(pattern)} characters; expected at most {MAX_PATTERN}")
        return
    options = re2.Options()
    options.log_errors = False
    try:
        re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "unknown"
        findings.problem(path, f"no regular expression (RE2): {quote(reason)}")


def _alternatives(sizes: list[int]) -> str:
    *others, last = map(str, sizes)
    return f"{', '.join(others)} or {last}"
