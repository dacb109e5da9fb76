import pytest

from ebpf_userspace_exporter.web.negotiation import accepts_gzip, refresh_seconds, wants_openmetrics

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROMETHEUS_TEXT = "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.mark.parametrize(
    ("accept", "openmetrics"),
    [
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        (PROMETHEUS_TEXT, False),
        ("application/openmetrics-text", True),
        (' Application/OpenMetrics-Text ; Version="1.0.0" ', True),
        ("application/openmetrics-text, text/plain", True),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.6", False),
        ("application/openmetrics-text;q=0.5, text/plain;q=0.1, */*", True),
        ("application/openmetrics-text;q=0.5, */*", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=nan", False),
        ("application/openmetrics-text;q=2", False),
        ("application/openmetrics-text;q=", False),
        ("application/openmetrics-text;version=0.0.1", False),
        ("application/openmetrics-text;version=2.0.0", False),
        ("text/html,application/xhtml+xml,*/*;q=0.8", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
        (",;,=;q", False),
    ],
)
def test_openmetrics_is_chosen_where_it_is_named_and_no_less_wanted(accept: str, openmetrics: bool) -> None:
    assert wants_openmetrics(accept) is openmetrics


@pytest.mark.parametrize(
    ("accept_encoding", "gzip"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("x-gzip", True),
        ("*", True),
        ("gzip;q=0", False),
        ("gzip;q=0.0, *", False),
        ("*;q=0", False),
        ("identity", False),
        ("", False),
        ("gzipped", False),
    ],
)
def test_gzip_is_accepted_where_its_quality_is_above_zero(accept_encoding: str, gzip: bool) -> None:
    assert accepts_gzip(accept_encoding) is gzip


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("10", 1.0),
        ("0.5", 0.4),
        ("", 1.0),
        ("soon", 1.0),
        ("nan", 1.0),
        ("inf", 1.0),
        ("-1", 1.0),
        ("0", 1.0),
    ],
)
def test_refresh_takes_a_share_of_a_short_scrape_timeout(header: str, seconds: float) -> None:
    assert refresh_seconds(header, longest=1.0) == pytest.approx(seconds)
