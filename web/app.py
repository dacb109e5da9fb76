"""The WSGI application: metrics, a status page, health and readiness. No request can make it do anything else."""

import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from ebpf_userspace_exporter.web.exposition import OPENMETRICS_CONTENT_TYPE, TEXT_CONTENT_TYPE
from ebpf_userspace_exporter.web.negotiation import accepts_gzip, refresh_seconds, wants_openmetrics
from ebpf_userspace_exporter.web.own_metrics import OwnMetrics
from ebpf_userspace_exporter.web.refresh import readiness, status
from ebpf_userspace_exporter.web.scrape import Form, Scraper
from ebpf_userspace_exporter.web.shared_work import SharedWork
from ebpf_userspace_exporter.web.status_page import STATIC_FILES, render_page

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

LONGEST_REFRESH_SECONDS = 1.0
STATUS_SECONDS = 1.0
PAGE_SECONDS = 1.0  # for which a page is given to all who ask: it costs the supervisor more than a scrape
_MAX_QUERY_FIELDS = 1000

_logger = logging.getLogger(__name__)

_Headers = tuple[tuple[str, str], ...]
_PLAIN: _Headers = (("Content-Type", "text/plain; charset=utf-8"),)
_CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE: _Headers = (
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", _CONTENT_SECURITY_POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)


@dataclass(frozen=True, slots=True)
class _Response:
    status: str
    body: bytes
    headers: _Headers = _PLAIN


class Application:
    """Serves one state directory's metrics at one path; several threads may call it."""

    def __init__(self, state_directory: Path, metrics_path: str) -> None:
        self._control_socket = state_directory / "control.sock"
        self._metrics_path = metrics_path
        self._own_metrics = OwnMetrics()
        self._scraper = Scraper(state_directory, self._own_metrics)
        self._pages = SharedWork(self._render_page)
        self._page = b""
        self._page_until = 0.0
        # The last wins where two are the same: with -m / there is no page.
        self._routes = {
            "/": lambda _: _Response("200 OK", self._pages.result(), _PAGE),
            **{path: _static(*file) for path, file in STATIC_FILES.items()},
            "/-/healthy": lambda _: _Response("200 OK", b"healthy\n"),
            "/-/ready": self._ready,
            # WSGI hands out the path's bytes as Latin-1.
            metrics_path.encode().decode("latin-1"): self._metrics,
        }

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Answer one request."""
        try:
            response = self._respond(environ)
        except Exception:
            _logger.exception("a request failed")
            response = _Response("500 Internal Server Error", b"internal error, see the exporter's log\n")
        headers = [
            *response.headers,
            ("Content-Length", str(len(response.body))),
            ("X-Content-Type-Options", "nosniff"),
        ]
        start_response(response.status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [response.body]

    def read_ahead(self) -> None:
        """Read the files for the first scrape, which has then to read only what has changed."""
        self._scraper.read_ahead()

    def _respond(self, environ: "WSGIEnvironment") -> _Response:
        route = self._routes.get(environ.get("PATH_INFO", ""))
        if route is None:
            return _Response("404 Not Found", b"not found\n")
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            headers = (*_PLAIN, ("Allow", "GET, HEAD"))
            return _Response("405 Method Not Allowed", b"only GET and HEAD are allowed\n", headers)
        return route(environ)

    def _metrics(self, environ: "WSGIEnvironment") -> _Response:
        started = time.monotonic()
        try:
            query = parse_qs(environ.get("QUERY_STRING", ""), max_num_fields=_MAX_QUERY_FIELDS)
        except ValueError:
            return _Response("400 Bad Request", b"too many fields in the query\n")
        seconds = refresh_seconds(
            environ.get("HTTP_X_PROMETHEUS_SCRAPE_TIMEOUT_SECONDS", ""), longest=LONGEST_REFRESH_SECONDS
        )
        form = Form(
            openmetrics=wants_openmetrics(environ.get("HTTP_ACCEPT", "")),
            gzip=accepts_gzip(environ.get("HTTP_ACCEPT_ENCODING", "")),
            names=frozenset(query.get("name[]", ())),
        )
        body = self._scraper.scrape(seconds, form)
        content_type = OPENMETRICS_CONTENT_TYPE if form.openmetrics else TEXT_CONTENT_TYPE
        headers: _Headers = (("Content-Type", content_type), ("Vary", "Accept, Accept-Encoding"))
        if form.gzip:
            headers = (*headers, ("Content-Encoding", "gzip"))
        self._own_metrics.observe_scrape(time.monotonic() - started)
        return _Response("200 OK", body, headers)

    def _ready(self, _environ: "WSGIEnvironment") -> _Response:
        answer = readiness(self._control_socket, STATUS_SECONDS)
        if answer.ready:
            return _Response("200 OK", b"ready\n")
        return _Response("503 Service Unavailable", f"not ready: {answer.reason}\n".encode())

    def _render_page(self) -> bytes:
        if time.monotonic() >= self._page_until:
            self._page = render_page(status(self._control_socket, STATUS_SECONDS), self._metrics_path)
            self._page_until = time.monotonic() + PAGE_SECONDS
        return self._page


def _static(content_type: str, content: bytes) -> Callable[["WSGIEnvironment"], _Response]:
    response = _Response("200 OK", content, (("Content-Type", content_type), ("Cache-Control", "no-cache")))
    return lambda _environ: response


def from_environment(environment: Mapping[str, str]) -> Application:
    """Return the application for the state directory and the path that the supervisor put into our environment."""
    return Application(
        state_directory=Path(environment.get("USERSPACE_EXPORTER_WEB_STATE_DIR", "/run/ebpf-userspace-exporter")),
        metrics_path=environment.get("USERSPACE_EXPORTER_WEB_METRICS_PATH", "/metrics"),
    )


application = from_environment(os.environ)
"""What gunicorn serves."""
