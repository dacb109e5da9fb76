"""The real gunicorn, started as the supervisor starts it; only its socket, its user and its ends are looked at."""

import errno
import os
import pwd
import re
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog

from ebpf_userspace_exporter.config.address import ListenAddress, parse_address
from ebpf_userspace_exporter.supervisor import children
from ebpf_userspace_exporter.supervisor.log import configure
from ebpf_userspace_exporter.supervisor.webserver import (
    EXIT_CANNOT_LISTEN,
    MAX_DELAY_SECONDS,
    WebServer,
    WebUser,
    WebUserError,
    listen,
    web_user,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")

DEADLINE_SECONDS = 60.0


@pytest.fixture(autouse=True)
def log() -> Iterator[None]:
    configure("info", "logfmt")
    yield
    structlog.reset_defaults()


@pytest.fixture
def address() -> ListenAddress:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return ListenAddress("127.0.0.1", int(probe.getsockname()[1]))


@pytest.fixture
def web(address: ListenAddress, tmp_path: Path) -> Iterator[WebServer]:
    server = WebServer(address, "/metrics", tmp_path, web_user("nobody"))
    yield server
    if server.pid is not None:
        children.kill(server.pid)
        ended(server)


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def answers(address: ListenAddress) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/-/healthy", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def ended(server: WebServer, now: float = 100.0) -> int:
    """Wait for the end of gunicorn, tell the server of it, and return the exit code."""
    assert server.pid is not None
    pid, status = os.waitpid(server.pid, 0)
    exit_code = os.waitstatus_to_exitcode(status)
    assert server.on_exit(pid, exit_code, now)
    return exit_code


def family(pid: int) -> list[int]:
    """Return a process and its children."""
    return [pid, *(int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


def field(pid: int, name: str) -> list[str]:
    [line] = re.findall(rf"^{name}:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    words: list[str] = line.split()
    return words


def test_gunicorn_and_its_worker_have_no_right_but_to_serve(web: WebServer, address: ListenAddress) -> None:
    web.start(0.0)
    until(lambda: answers(address))
    assert web.pid is not None
    nobody = pwd.getpwnam("nobody")

    processes = family(web.pid)
    assert len(processes) == 2
    for pid in processes:
        assert field(pid, "Uid") == [str(nobody.pw_uid)] * 4
        assert field(pid, "Gid") == [str(nobody.pw_gid)] * 4
        assert field(pid, "Groups") == []
        assert field(pid, "NoNewPrivs") == ["1"]
        for capabilities in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
            assert field(pid, capabilities) == ["0" * 16]
        assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        names = {line.partition(b"=")[0] for line in environment if line} - {b"SERVER_SOFTWARE", b"LC_CTYPE"}
        assert names == {b"USERSPACE_EXPORTER_WEB_STATE_DIR", b"USERSPACE_EXPORTER_WEB_METRICS_PATH"}


def test_exec_hands_no_ambient_capability_on(address: ListenAddress, tmp_path: Path) -> None:
    """As systemd gives them to an exporter that does not run as root."""
    import ctypes

    # PR_SET_KEEPCAPS, and PR_CAP_AMBIENT_RAISE of CAP_SYS_PTRACE, which wants it inheritable.
    reading, writing = os.pipe()

    def become_unprivileged_with_capability() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(8, 1, 0, 0, 0) == 0
        os.setgid(65534)
        os.setuid(65534)
        mask = 1 << 19
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        words = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)
        assert libc.capset(header, words) == 0
        assert libc.prctl(47, 2, 19, 0, 0) == 0
        server = WebServer(address, "/metrics", tmp_path, web_user(None))
        server.start(0.0)
        until(lambda: answers(address))
        assert server.pid is not None
        found = [field(pid, "CapAmb") + field(pid, "CapPrm") for pid in (os.getpid(), *family(server.pid))]
        os.write(writing, repr(found).encode())
        children.kill(server.pid)

    child = children.spawn("unprivileged", become_unprivileged_with_capability, keep=(writing,))
    os.close(writing)
    assert os.waitpid(child, 0)[1] == 0
    found = os.read(reading, 4096).decode()
    os.close(reading)

    sys_ptrace, none = f"{1 << 19:016x}", "0" * 16
    assert found == repr([[sys_ptrace, sys_ptrace], [none, none], [none, none]])


def test_gunicorn_that_is_killed_is_followed_by_another(web: WebServer, address: ListenAddress) -> None:
    web.start(0.0)
    until(lambda: answers(address))
    assert web.pid is not None
    processes = family(web.pid)
    os.kill(web.pid, signal.SIGKILL)
    assert ended(web, now=1.0) == -signal.SIGKILL
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in processes))
    web.start(1.0)
    assert web.pid is None  # its time has not come
    assert 1 < web.retry_at < 2
    web.start(web.retry_at)
    until(lambda: answers(address))

    assert web.pid not in processes


def test_pauses_between_starts_grow_to_a_limit_and_shrink_when_it_was_well(web: WebServer) -> None:
    pauses = []
    for _ in range(9):
        web.retry_at = 0.0
        web.start(100.0)
        assert web.pid is not None
        children.kill(web.pid)
        ended(web, now=100.0)
        pauses.append(web.retry_at - 100.0)

    assert pauses == sorted(pauses)
    assert 0 < pauses[0] < 1
    assert pauses[-1] == MAX_DELAY_SECONDS
    web.retry_at = 0.0
    web.start(100.0)
    assert web.pid is not None
    children.kill(web.pid)
    ended(web, now=1000.0)
    assert web.retry_at == 1000.0


def test_asked_to_stop_it_ends_and_is_not_followed(web: WebServer, address: ListenAddress) -> None:
    web.start(0.0)
    until(lambda: answers(address))
    web.stop()

    assert ended(web) == 0
    assert web.retry_at == float("inf")


def test_asked_to_stop_before_it_has_begun_it_ends(web: WebServer) -> None:
    web.start(0.0)
    web.stop()

    assert ended(web) in (0, -signal.SIGTERM)


def test_address_in_use_at_start_is_told_and_final(
    web: WebServer, address: ListenAddress, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as other:
        other.bind((address.host, address.port))
        other.listen()
        web.start(0.0)
        assert ended(web) == EXIT_CANNOT_LISTEN

    assert web.could_never_listen
    logged = capfd.readouterr().err
    assert "level=error" in logged
    assert "cannot listen" in logged
    assert f"address={address}" in logged
    assert 'error="Address already in use"' in logged
    assert "Traceback" not in logged


def test_address_in_use_at_a_later_start_is_tried_again(web: WebServer, address: ListenAddress) -> None:
    web.start(0.0)
    until(lambda: answers(address))
    assert web.pid is not None
    os.kill(web.pid, signal.SIGKILL)
    ended(web)
    until(lambda: not answers(address))
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: bound(other, address))
        other.listen()
        web.start(web.retry_at)
        assert ended(web) == EXIT_CANNOT_LISTEN

    assert not web.could_never_listen
    assert web.retry_at < float("inf")


def bound(other: socket.socket, address: ListenAddress) -> bool:
    try:
        other.bind((address.host, address.port))
    except OSError:
        return False
    return True


def test_web_that_cannot_be_forked_is_tried_again(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fork", refuse)
        web.start(100.0)

    assert web.pid is None
    assert 100 < web.retry_at <= 100 + MAX_DELAY_SECONDS


# Users


def test_user_is_the_one_named_or_nobody() -> None:
    nobody = pwd.getpwnam("nobody")

    assert web_user("nobody") == web_user(None) == WebUser(nobody.pw_uid, nobody.pw_gid)


def test_unknown_user_is_told() -> None:
    with pytest.raises(WebUserError, match=r"--web-user: no user 'no-such-user' on this system"):
        web_user("no-such-user")


# Addresses


def connects(listener: socket.socket, host: str) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as client:
        client.settimeout(10)
        try:
            client.connect((host, listener.getsockname()[1]))
        except ConnectionRefusedError:
            return False
    listener.accept()[0].close()
    return True


@pytest.mark.parametrize(
    ("text", "v4", "v6"),
    [
        pytest.param(":0", True, True, id="no host: all addresses, as in Go"),
        pytest.param("[::]:0", True, True, id="v6: all addresses"),
        pytest.param("0.0.0.0:0", True, True, id="v4: all addresses, as in Go"),
        pytest.param("127.0.0.1:0", True, False, id="one v4"),
        pytest.param("[::1]:0", False, True, id="one v6"),
    ],
)
def test_address_means_what_it_means_in_go(text: str, v4: bool, v6: bool) -> None:
    with listen(parse_address(text)) as listener:
        assert (connects(listener, "127.0.0.1"), connects(listener, "::1")) == (v4, v6)


def test_name_of_a_host_is_looked_up() -> None:
    with listen(parse_address("localhost:0")) as listener:
        assert connects(listener, listener.getsockname()[0])


@pytest.mark.parametrize("host", ["no-such-host.invalid", "192.0.2.1"], ids=["unknown", "not ours"])
def test_host_that_cannot_be_listened_on_is_an_error_and_leaves_no_socket(host: str) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match=rf"{host}|Cannot assign"):
        listen(ListenAddress(host, 0))

    assert set(os.listdir("/proc/self/fd")) == before
