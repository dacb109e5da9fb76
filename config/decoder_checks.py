"""What a label's decoders must hold: names that there are, bytes that they can read, and options of their own."""

from collections.abc import Mapping

from ebpf_userspace_exporter.config.decoders import DECODER_SIZES, KERNEL_ONLY
from ebpf_userspace_exporter.config.errors import KeyPath, quote, suggestion_or_list
from ebpf_userspace_exporter.config.findings import Findings
from ebpf_userspace_exporter.config.model import Decoder, Label
from ebpf_userspace_exporter.config.names import C_IDENTIFIER
from ebpf_userspace_exporter.config.patterns import pattern_problem

# The decoder that each option is for.
_OPTIONS: Mapping[str, str] = {
    "static_map": "static_map",
    "allow_unknown": "static_map",
    "regexps": "regexp",
    "stack_table": "ustack",
}
_NEEDED = ("static_map", "regexps", "stack_table")


def check_decoders(label: Label, path: KeyPath, findings: Findings) -> None:
    """Record what is wrong with the decoders of the label at `path`."""
    if not label.decoders:
        is_given = "decoders" in label.model_fields_set
        message = "is empty; expected a list of decoders" if is_given else "missing; expected a list of decoders"
        findings.problem((*path, "decoders"), message)
    for index, decoder in enumerate(label.decoders):
        decoder_path = (*path, "decoders", index)
        name_path = (*decoder_path, "name")
        if decoder.name in KERNEL_ONLY:
            findings.problem(name_path, f"no decoder {quote(decoder.name)}: it {KERNEL_ONLY[decoder.name]}")
            continue
        if decoder.name not in DECODER_SIZES:
            message = f"no decoder {quote(decoder.name)}{suggestion_or_list(decoder.name, DECODER_SIZES)}"
            findings.problem(name_path, message)
            continue
        _check_options(decoder, decoder_path, findings)
        sizes = DECODER_SIZES[decoder.name]
        if sizes is None:
            continue
        if index:
            message = f"{decoder.name} reads the key's bytes: expected it first, not after {label.decoders[0].name}"
            findings.problem(name_path, message, name_path, (*path, "decoders", 0))
        elif label.size and label.size not in sizes:
            message = f"{decoder.name} cannot decode {label.size} bytes; expected {_alternatives(sorted(sizes))}"
            findings.problem((*path, "size"), message, (*path, "size"), name_path)


def _check_options(decoder: Decoder, path: KeyPath, findings: Findings) -> None:
    name_path = (*path, "name")
    for option, owner in _OPTIONS.items():
        option_path = (*path, option)
        is_given = bool(getattr(decoder, option))
        if is_given and decoder.name != owner:
            findings.problem(option_path, f"is for the decoder {owner}, not for {decoder.name}", name_path)
        elif not is_given and decoder.name == owner and option in _NEEDED:
            findings.problem(option_path, f"missing; expected {Decoder.model_fields[option].description}")
    if decoder.name == "regexp":
        for index, pattern in enumerate(decoder.regexps):
            if (problem := pattern_problem(pattern)) is not None:
                findings.problem((*path, "regexps", index), problem)
    if decoder.name == "ustack" and decoder.stack_table and not C_IDENTIFIER.fullmatch(decoder.stack_table):
        expected = Decoder.model_fields["stack_table"].description
        findings.problem((*path, "stack_table"), f"expected {expected}, got {quote(decoder.stack_table)}")


def _alternatives(sizes: list[int]) -> str:
    *others, last = map(str, sizes)
    return f"{', '.join(others)} or {last}" if others else last
