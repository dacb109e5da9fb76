"""What is offered in the place of a name that there is not."""

import time

import pytest

from ebpf_userspace_exporter.worker.build.similar_names import similar_files, similar_functions


@pytest.mark.parametrize(
    ("name", "known", "similar"),
    [
        pytest.param("hit", ["_ZN3app3hitEv", "miss", "hit.part.0"], ["hit.part.0", "_ZN3app3hitEv"], id="contained"),
        pytest.param("mallco", ["malloc", "calloc", "mallinfo"], ["malloc"], id="misspelt"),
        pytest.param("read", ["SSL_write", "close"], [], id="nothing like it"),
    ],
)
def test_functions_that_contain_the_name_go_before_those_spelt_nearly_so(
    name: str, known: list[str], similar: list[str]
) -> None:
    assert similar_functions(name, known) == similar


def test_a_hundred_thousand_functions_are_compared_in_seconds() -> None:
    known = [f"function_{number:06}" for number in range(100_000)]
    begun = time.process_time()

    assert similar_functions("functino_000007x", known)
    assert time.process_time() - begun < 20


@pytest.mark.parametrize(
    ("name", "similar"),
    [
        ("/usr/lib/libssl.so.1.1", ["/lib/libssl.so.3"]),
        ("libssl.so.3", ["/lib/libssl.so.3"]),
        ("sslx", ["/lib/libssl.so.3"]),
        ("/opt/redis", []),
    ],
)
def test_files_are_compared_by_their_last_part_and_by_the_librarys_name(name: str, similar: list[str]) -> None:
    assert similar_files(name, ["/lib/libssl.so.3", "/lib/ld-linux-x86-64.so.2", "/usr/bin/postgres"]) == similar
