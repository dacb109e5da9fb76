"""Selectors as they are written, and what of them is doubtful."""

from collections.abc import Callable

import pytest

from ebpf_userspace_exporter.config.load import Loaded
from ebpf_userspace_exporter.config.selector import Selector

Load = Callable[[str], Loaded]


@pytest.fixture
def select(load: Load, counter_yaml: str) -> Callable[[str], Loaded]:
    """Return the counter's config with another selector, in one line."""
    return lambda selector: load(counter_yaml.replace("binary_name: gunicorn", selector))


def test_every_key_of_a_selector_loads_as_written(load: Load, counter_yaml: str) -> None:
    selector = """\
      binary_name: [gunicorn, python3]
      exe: /opt/*/bin/python*
      cmdline: ['--role=(?P<role>\\w+)', x]
      argv0: '*/gunicorn'
      user: www-data
      uid: [0x21, 1000]
      cwd: /srv/*
      environ: {APP: '^shop$', 010: on}
      cgroup: '*/shop.slice/*'
      systemd_unit: gunicorn@*.service
      container_id: 4f2a
      library: '*/libssl.so.*'
      listens_on: [5432, 6000-6010]
      parent: {binary_name: postgres}
      ancestor: {exe: /usr/sbin/cron}
      min_age: 1m30s
      any:
        - cmdline: --web
        - not: {uid: 0}
      not: {binary_name: gdb}
"""

    loaded = load(counter_yaml.replace("      binary_name: gunicorn\n", selector))

    assert loaded.warnings == ()
    assert loaded.config.programs[0].attachment == Selector.model_validate(
        {
            "binary_name": ("gunicorn", "python3"),
            "exe": ("/opt/*/bin/python*",),
            "cmdline": ("--role=(?P<role>\\w+)", "x"),
            "argv0": ("*/gunicorn",),
            "user": ("www-data",),
            "uid": (33, 1000),
            "cwd": ("/srv/*",),
            "environ": {"APP": "^shop$", "010": "on"},
            "cgroup": ("*/shop.slice/*",),
            "systemd_unit": ("gunicorn@*.service",),
            "container_id": ("4f2a",),
            "library": ("*/libssl.so.*",),
            "listens_on": ((5432, 5432), (6000, 6010)),
            "parent": Selector(binary_name=("postgres",)),
            "ancestor": Selector(exe=("/usr/sbin/cron",)),
            "min_age": 90.0,
            "any": (Selector(cmdline=("--web",)), Selector.model_validate({"not": (Selector(uid=(0,)),)})),
            "not": (Selector(binary_name=("gdb",)),),
        }
    )


def test_a_single_value_is_a_list_of_one(select: Callable[[str], Loaded], load: Load, counter_yaml: str) -> None:
    single = select("{exe: /a, uid: 0, listens_on: 80, any: {exe: /b}, not: {cgroup: c}, cmdline: x}")
    listed = select("{exe: [/a], uid: [0], listens_on: [80], any: [{exe: [/b]}], not: [{cgroup: [c]}], cmdline: [x]}")

    assert single == listed
    assert load("exclude: {exe: /a}\n" + counter_yaml) == load("exclude: [{exe: /a}]\n" + counter_yaml)


def test_exclude_is_of_the_config_and_not_of_a_program(load: Load, counter_yaml: str) -> None:
    config = load("exclude: [{exe: /a}, {user: root}]\n" + counter_yaml).config

    assert config.exclude == (Selector(exe=("/a",)), Selector(user=("root",)))
    assert config.programs == load(counter_yaml).config.programs


@pytest.mark.parametrize(
    ("selector", "warning"),
    [
        pytest.param(
            "exe: python3",
            'exe: "python3" never matches: a path starts with /; did you mean "*/python3"?',
            id="exe without a folder",
        ),
        pytest.param(
            "not: {cwd: [/srv, srv/shop]}",
            'not.cwd[1]: "srv/shop" never matches: a path starts with /; did you mean "*/srv/shop"?',
            id="cwd that is relative",
        ),
        pytest.param(
            "library: libjvm.so",
            'library: "libjvm.so" never matches: a path starts with /; did you mean "*/libjvm.so"?',
            id="library's bare name",
        ),
        pytest.param(
            "user: 1000",
            "user: \"1000\" is taken for a user's name; the key for a user's number is uid",
            id="user that is a number",
        ),
        pytest.param(
            "parent: {binary_name: a-name-of-20-letters}",
            'parent.binary_name: the kernel keeps 15 bytes of a process\'s name: compared as "a-name-of-20-le"',
            id="binary_name of a parent over 15 bytes",
        ),
    ],
)
def test_a_selector_that_hardly_means_what_it_says_is_a_warning(
    select: Callable[[str], Loaded], selector: str, warning: str
) -> None:
    assert select(selector).warnings == (f"programs.yaml:16: programs[0].attachment.{warning}",)


@pytest.mark.parametrize("glob", ["/usr/bin/*", "*/python3", "?usr?bin?env", "[/]usr/bin/env"])
def test_a_glob_that_may_start_with_a_slash_is_none(select: Callable[[str], Loaded], glob: str) -> None:
    assert select(f"exe: '{glob}'").warnings == ()
