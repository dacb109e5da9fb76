"""Names for known values."""

from collections.abc import Mapping

from ebpf_userspace_exporter.worker.decoders.text import as_text


class StaticMap:
    """Gives the name that the config has for a value."""

    def __init__(self, names: Mapping[str, str], *, allow_unknown: bool) -> None:
        self._names = names
        self._allow_unknown = allow_unknown

    def __call__(self, raw: bytes) -> str:
        """Return the value's name; without one `unknown:VALUE`, or the value itself where that is allowed."""
        text = as_text(raw)
        name = self._names.get(text)
        if name is not None:
            return name
        return text if self._allow_unknown else f"unknown:{text}"
