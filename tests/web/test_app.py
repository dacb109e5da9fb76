import gzip
import logging
import subprocess
from pathlib import Path
from wsgiref.util import setup_testing_defaults

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from ebpf_userspace_exporter import __version__
from ebpf_userspace_exporter.web.app import Application, from_environment
from tests.web.conftest import StartSupervisor, healthy_answer, histogram_values, write_metric_file


class Answer:
    """What the application gave for one request."""

    def __init__(self, application: Application, path: str, method: str = "GET", query: str = "", **headers: str):
        environ: dict[str, object] = {f"HTTP_{name.upper()}": value for name, value in headers.items()}
        setup_testing_defaults(environ)
        environ |= {"PATH_INFO": path, "REQUEST_METHOD": method, "QUERY_STRING": query}
        self.status = ""
        self.headers: dict[str, str] = {}

        def start_response(status: str, headers: list[tuple[str, str]], *_: object) -> object:
            self.status, self.headers = status, dict(headers)
            return None

        self.body = b"".join(application(environ, start_response))  # type: ignore[arg-type]  # no write(), as unused

    def samples(self) -> dict[str, float]:
        """Return line start -> value."""
        lines = [line for line in self.body.decode().splitlines() if not line.startswith("#")]
        return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines}


@pytest.fixture
def application(state_directory: Path) -> Application:
    labels = (("generation", "0"), ("pid", "7"))
    write_metric_file(
        state_directory / "counter_gc-1_7.db", {("userspace_exporter_gc", "userspace_exporter_gc_total", labels): 3.0}
    )
    write_metric_file(
        state_directory / "histogram_size-1_7.db",
        histogram_values("userspace_exporter_size", (("pid", "7"),), {"1.0": 2.0, "+Inf": 1.0}, 9.0),
    )
    write_metric_file(
        state_directory / "gauge_supervisor.own",
        {
            (
                "userspace_exporter_enabled_programs",
                "userspace_exporter_enabled_programs",
                (("name", "gc"), ("pid", "7")),
            ): 1.0
        },
    )
    return Application(state_directory, "/metrics")


def test_metrics_are_the_files_and_our_own(application: Application, start_supervisor: StartSupervisor) -> None:
    supervisor = start_supervisor(healthy_answer)

    answer = Answer(application, "/metrics")

    assert answer.status == "200 OK"
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    samples = answer.samples()
    assert samples['userspace_exporter_gc_total{generation="0",pid="7"}'] == 3
    assert samples['userspace_exporter_size_bucket{pid="7",le="+Inf"}'] == 3
    assert samples['userspace_exporter_enabled_programs{name="gc",pid="7"}'] == 1
    assert samples["userspace_exporter_refresh_successful"] == 1
    assert samples["userspace_exporter_stale_workers"] == 0
    assert samples["userspace_exporter_unreadable_files_total"] == 0
    assert samples["userspace_exporter_scrape_seconds_count"] == 0
    assert Answer(application, "/metrics").samples()["userspace_exporter_scrape_seconds_count"] == 1
    assert supervisor.requests == ["refresh 0.900\n"] * 2


def test_refresh_follows_the_scrape_timeout(application: Application, start_supervisor: StartSupervisor) -> None:
    supervisor = start_supervisor(healthy_answer)

    Answer(application, "/metrics", x_prometheus_scrape_timeout_seconds="0.5")

    assert supervisor.requests == ["refresh 0.360\n"]


def test_without_a_supervisor_what_is_there_is_served(application: Application) -> None:
    samples = Answer(application, "/metrics").samples()

    assert samples['userspace_exporter_gc_total{generation="0",pid="7"}'] == 3
    assert samples["userspace_exporter_refresh_successful"] == 0


def test_openmetrics_has_the_same_series(application: Application, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"

    answer = Answer(application, "/metrics", accept=accept)

    assert answer.headers["Content-Type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    list(parse_openmetrics(answer.body.decode()))  # type: ignore[no-untyped-call]  # the library's
    assert answer.samples().keys() == Answer(application, "/metrics").samples().keys()


def test_promtool_has_nothing_to_say(application: Application, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    body = Answer(application, "/metrics").body

    checked = subprocess.run(["promtool", "check", "metrics"], input=body, capture_output=True, timeout=60, check=False)

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


def test_gzip_unpacks_to_the_same_series(application: Application, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)

    answer = Answer(application, "/metrics", accept_encoding="deflate, gzip")

    assert answer.headers["Content-Encoding"] == "gzip"
    assert answer.headers["Content-Length"] == str(len(answer.body))
    list(parse_text(gzip.decompress(answer.body).decode()))
    assert "Content-Encoding" not in Answer(application, "/metrics", accept_encoding="gzip;q=0").headers


def test_name_selects_families_and_samples(application: Application, start_supervisor: StartSupervisor) -> None:
    start_supervisor(healthy_answer)
    query = "name[]=userspace_exporter_size&name%5B%5D=userspace_exporter_stale_workers&name[]=none&name[]=%ff%00"

    samples = Answer(application, "/metrics", query=query).samples()

    assert samples.keys() == {
        'userspace_exporter_size_bucket{pid="7",le="1.0"}',
        'userspace_exporter_size_bucket{pid="7",le="+Inf"}',
        'userspace_exporter_size_sum{pid="7"}',
        'userspace_exporter_size_count{pid="7"}',
        "userspace_exporter_stale_workers",
    }


def test_name_that_matches_nothing_is_an_empty_answer(application: Application) -> None:
    answer = Answer(application, "/metrics", query="name[]=none", accept="application/openmetrics-text")

    assert (answer.status, answer.body) == ("200 OK", b"# EOF\n")


def test_query_of_too_many_fields_is_refused(application: Application) -> None:
    assert Answer(application, "/metrics", query="name[]=a&" * 2000).status == "400 Bad Request"


@pytest.mark.parametrize("path", ["/metrics", "/", "/-/healthy"])
def test_head_has_the_headers_alone(application: Application, path: str) -> None:
    answer = Answer(application, path, method="HEAD")

    assert answer.status == "200 OK"
    assert answer.body == b""
    assert int(answer.headers["Content-Length"]) > 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_told_what_is_allowed(application: Application, method: str) -> None:
    answer = Answer(application, "/metrics", method=method)

    assert answer.status == "405 Method Not Allowed"
    assert answer.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/metrics/", "//", "/-/reload", "", "/../metrics", "/\xff"])
def test_other_paths_are_not_found(application: Application, path: str) -> None:
    answer = Answer(application, path, method="POST")

    assert (answer.status, answer.body) == ("404 Not Found", b"not found\n")


def test_page_names_the_version_and_links_to_the_metrics(state_directory: Path) -> None:
    answer = Answer(Application(state_directory, '/a"<b>&ü'), "/")

    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.headers["Content-Security-Policy"].startswith("default-src 'none';")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    page = answer.body.decode()
    assert __version__ in page
    assert '<a href="./a%22%3Cb%3E%26%C3%BC">/a&#34;&lt;b&gt;&amp;ü</a>' in page


def test_metrics_path_of_other_than_ascii_letters_is_found(state_directory: Path) -> None:
    application = Application(state_directory, "/mätrics")

    assert Answer(application, "/mätrics".encode().decode("latin-1")).status == "200 OK"


def test_metrics_at_the_root_replace_the_page(state_directory: Path) -> None:
    answer = Answer(Application(state_directory, "/"), "/")

    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")


def test_ready_is_what_the_supervisor_says(application: Application, start_supervisor: StartSupervisor) -> None:
    ready = False
    start_supervisor(lambda _: b'{"ready": %s}\n' % (b"true" if ready else b"false"))

    before = Answer(application, "/-/ready")
    ready = True
    after = Answer(application, "/-/ready")

    assert (before.status, before.body) == (
        "503 Service Unavailable",
        b"not ready: the first reconcile is not through\n",
    )
    assert (after.status, after.body) == ("200 OK", b"ready\n")


def test_healthy_does_not_ask_the_supervisor(application: Application) -> None:
    assert Answer(application, "/-/healthy").status == "200 OK"
    assert Answer(application, "/-/ready").status == "503 Service Unavailable"


def test_bad_file_is_counted_with_every_scrape_and_logged_once(
    application: Application, state_directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = state_directory / "counter_gc-1_8.db"
    bad.write_bytes(b"noise")
    (state_directory / "counter_own-1_8.db").write_bytes(b"")
    write_metric_file(
        state_directory / "counter_taken-1_8.db", {("userspace_exporter_stale_workers",) * 2 + ((),): 1.0}
    )

    values = [Answer(application, "/metrics").samples() for _ in range(2)]

    assert [value["userspace_exporter_unreadable_files_total"] for value in values] == [3, 6]
    assert values[0]['userspace_exporter_gc_total{generation="0",pid="7"}'] == 3
    assert sorted(record.getMessage() for record in caplog.records) == [
        "metric file 'counter_gc-1_8.db' is left out of scrapes: shorter than its header",
        "metric file 'counter_own-1_8.db' is left out of scrapes: empty",
        (
            "metric file 'counter_taken-1_8.db' is left out of scrapes: "
            "userspace_exporter_stale_workers belongs to another metric"
        ),
    ]
    write_metric_file(bad, {})
    Answer(application, "/metrics")
    bad.write_bytes(b"noise again")
    Answer(application, "/metrics")
    assert len(caplog.records) == 4


def test_defect_is_a_short_500_and_a_traceback_in_the_log(
    application: Application, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_application: Application, _environ: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(Application, "_respond", fail)

    answer = Answer(application, "/metrics")

    assert answer.status == "500 Internal Server Error"
    assert b"secret" not in answer.body
    assert caplog.records[0].levelno == logging.ERROR
    assert "secret detail" in caplog.text


def test_environment_says_which_directory_and_path(state_directory: Path) -> None:
    application = from_environment(
        {"USERSPACE_EXPORTER_WEB_STATE_DIR": str(state_directory), "USERSPACE_EXPORTER_WEB_METRICS_PATH": "/m"}
    )

    assert Answer(application, "/m").samples()["userspace_exporter_unreadable_files_total"] == 0
    assert Answer(application, "/metrics").status == "404 Not Found"
