"""On which ports real processes listen."""

import os
import socket

from ebpf_userspace_exporter.supervisor.selection.listening import ListeningSockets
from tests.product.exporter import free_port
from tests.supervisor.selection.living import living


def listen(port: int, family: str = "AF_INET") -> str:
    """Return what has a living process listen there."""
    return f"import socket; s{port} = socket.create_server(('', {port}), family=socket.{family})"


def test_both_families_are_seen() -> None:
    first, second = free_port(), free_port()
    with living() as process:
        process.do(listen(first))
        process.do(listen(second, "AF_INET6"))

        assert ListeningSockets().ports(process.pid) == tuple(sorted((first, second)))


def test_connections_and_bound_sockets_do_not_listen() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, living() as process:
        process.do(f"import socket; c = socket.create_connection(('127.0.0.1', {server.getsockname()[1]}))")
        process.do("b = socket.socket(); b.bind(('127.0.0.1', 0)); u = socket.socket(type=socket.SOCK_DGRAM)")

        assert ListeningSockets().ports(process.pid) == ()
        assert ListeningSockets().ports(os.getpid()) == (server.getsockname()[1],)


def test_who_has_very_many_descriptors_costs_a_look_at_the_first_of_them() -> None:
    first, last = free_port(), free_port()
    with living() as process:
        process.do(listen(first))
        process.do("import os, resource; resource.setrlimit(resource.RLIMIT_NOFILE, (20_000, 20_000))")
        process.do("many = [os.dup(0) for _ in range(17_000)]")
        process.do(listen(last))

        assert ListeningSockets().ports(process.pid) == (first,)


def test_ports_of_another_network_namespace_are_its_own() -> None:
    with living() as ours, living(through=("unshare", "--net")) as theirs:
        port = free_port()
        ours.do(listen(port))
        theirs.do(listen(port))
        theirs.do(listen(port + 1, "AF_INET6"))
        sockets = ListeningSockets()

        assert sockets.ports(ours.pid) == (port,)
        assert sockets.ports(theirs.pid) == (port, port + 1)
