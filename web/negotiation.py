"""What a request's headers ask for; whatever cannot be understood asks for nothing."""

import math
from collections.abc import Iterator

_OPENMETRICS = "application/openmetrics-text"
_TEXT_RANGES = ("text/plain", "text/*", "*/*")


def wants_openmetrics(accept: str) -> bool:
    """Return whether OpenMetrics 1.0.0 is named and no less wanted than text; wildcards mean text.

    prometheus_client's choose_encoder takes the first of either it meets and ignores q, even q=0.
    """
    openmetrics_quality = 0.0
    text_qualities: dict[str, float] = {}
    for name, parameters, quality in _elements(accept):
        version = parameters.get("version")
        if name == _OPENMETRICS and version in (None, "1.0.0"):
            openmetrics_quality = max(openmetrics_quality, quality)
        elif name in _TEXT_RANGES:
            text_qualities[name] = max(text_qualities.get(name, 0.0), quality)
    text_quality = next((text_qualities[name] for name in _TEXT_RANGES if name in text_qualities), 0.0)
    return openmetrics_quality > 0 and openmetrics_quality >= text_quality


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether gzip is named with a q above 0, or, where it is not named, `*` is."""
    qualities = {name: quality for name, _, quality in _elements(accept_encoding)}
    return qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0))) > 0


def refresh_seconds(scrape_timeout: str, longest: float) -> float:
    """Return how long a refresh may take: 0.8 of X-Prometheus-Scrape-Timeout-Seconds, at most `longest`."""
    try:
        timeout = float(scrape_timeout)
    except ValueError:
        return longest
    if not (math.isfinite(timeout) and timeout > 0):
        return longest
    return min(longest, 0.8 * timeout)


def _elements(header: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Yield (name, parameters, quality) of each element of an Accept or Accept-Encoding header, RFC 9110 12.5."""
    for element in header.split(","):
        name, *rest = (part.strip().lower() for part in element.split(";"))
        parameters = {key.strip(): text.strip(' "') for key, _, text in (part.partition("=") for part in rest)}
        yield name, parameters, _quality(parameters.get("q", "1"))


def _quality(text: str) -> float:
    try:
        quality = float(text)
    except ValueError:
        return 0.0
    return quality if 0 <= quality <= 1 else 0.0
