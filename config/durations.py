"""Durations as people and Go write them: 2, 0.5, 500ms, 1m30s."""

import re

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_PLAIN = re.compile(_NUMBER)
_PART = re.compile(rf"({_NUMBER})(ms|s|m|h)")
_PARTS = re.compile(rf"(?:{_PART.pattern})+")


def parse_duration(text: str, *, least: float, most: float) -> float:
    """Return the seconds that the text means; ValueError where it is no duration or not within the bounds."""
    if _PLAIN.fullmatch(text):
        seconds = float(text)
    elif _PARTS.fullmatch(text):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    else:
        raise ValueError("expected seconds or a duration such as 500ms, 1s or 1m30s")
    if not least <= seconds <= most:
        raise ValueError(f"expected from {least:g} to {most:g} seconds")
    return seconds
