"""Headers are taken where bcc would find them, else merged from what is installed, else asked for."""

import platform
from pathlib import Path

import pytest

from ebpf_userspace_exporter.worker.build.headers import Headers, HeadersError, find_headers

ARCHITECTURE = {"x86_64": "x86", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
COMMON = (
    "include/linux/kconfig.h",
    "include/linux/types.h",
    "include/uapi/linux/ptrace.h",
    f"arch/{ARCHITECTURE}/include/asm/ptrace.h",
    f"arch/{ARCHITECTURE}/include/uapi/asm/ptrace.h",
)
FLAVOUR = (
    "include/generated/autoconf.h",
    "include/config/auto.conf",
    f"arch/{ARCHITECTURE}/include/generated/asm/unistd.h",
)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


def install(tree: Path, *files: str) -> Path:
    for file in files:
        (tree / file).parent.mkdir(parents=True, exist_ok=True)
        (tree / file).write_text(f"{tree.name}/{file}")
    return tree


def listing(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def test_debians_two_packages_become_one_tree_and_one_warning(root: Path, scratch: Path) -> None:
    install(root / "usr/src/linux-headers-6.1.0-9-amd64", *FLAVOUR)
    install(root / "usr/src/linux-headers-6.1.0-9-common", *COMMON)
    common = install(root / "usr/src/linux-headers-6.1.0-56-common", *COMMON)
    install(root / "usr/src/linux-headers-6.1.0-56-common-rt", *COMMON)
    flavour = install(root / "usr/src/linux-headers-6.1.0-56-amd64", *FLAVOUR)
    before = listing(root)

    headers = find_headers(None, scratch, root=root)

    assert headers.path is not None
    assert headers.path.parent == scratch
    for tree, files in ((common, COMMON), (flavour, FLAVOUR)):
        for file in files:
            assert (headers.path / file).read_text() == f"{tree.name}/{file}"
    assert headers.warning is not None
    assert platform.release() in headers.warning
    assert str(flavour) in headers.warning
    assert listing(root) == before
    assert find_headers(None, scratch, root=root) == headers


def test_folders_of_both_packages_are_merged_file_by_file(root: Path, scratch: Path) -> None:
    install(root / "usr/src/linux-headers-6.1.0-56-common", *COMMON)
    install(root / "usr/src/linux-headers-6.1.0-56-amd64", *FLAVOUR, "include/linux/only.h", "include/linux/types.h")

    path = find_headers(None, scratch, root=root).path

    assert path is not None
    assert (path / "include/linux/only.h").exists()
    assert (path / "include/linux/kconfig.h").exists()
    assert "amd64" in (path / "include/linux/types.h").read_text()


@pytest.mark.parametrize(
    "place", ["usr/src/linux-headers-6.9.1-0-lts", "usr/src/kernels/6.9.1-300.fc40", "lib/modules/6.9.1-arch1-1/build"]
)
def test_a_whole_tree_is_used_as_it_is(place: str, root: Path, scratch: Path) -> None:
    tree = install(root / place, *COMMON, *FLAVOUR)

    headers = find_headers(None, scratch, root=root)

    assert headers.path == tree
    assert headers.warning
    assert listing(scratch) == []


def test_the_newest_tree_of_this_architecture_wins(root: Path, scratch: Path) -> None:
    for version in ("6.9.1", "6.10.2"):
        install(root / f"usr/src/kernels/{version}", *COMMON, *FLAVOUR)
    foreign = [file.replace(f"arch/{ARCHITECTURE}/", "arch/sparc/") for file in (*COMMON, *FLAVOUR)]
    install(root / "usr/src/kernels/6.12.0", *foreign)

    assert find_headers(None, scratch, root=root).path == root / "usr/src/kernels/6.10.2"


def test_the_running_kernels_headers_are_left_to_bcc(root: Path, scratch: Path) -> None:
    install(root / "lib/modules" / platform.release() / "build", *COMMON, *FLAVOUR)

    assert find_headers(None, scratch, root=root) == Headers(None, None)


def test_the_running_kernels_two_packages_are_left_to_bcc(root: Path, scratch: Path) -> None:
    install(root / "lib/modules" / platform.release() / "build", *FLAVOUR)
    install(root / "lib/modules" / platform.release() / "source", *COMMON)

    assert find_headers(None, scratch, root=root) == Headers(None, None)


def test_the_running_kernels_tree_below_usr_src_needs_no_warning(root: Path, scratch: Path) -> None:
    tree = install(root / f"usr/src/linux-headers-{platform.release()}", *COMMON, *FLAVOUR)
    install(root / "usr/src/linux-headers-99.0-generic", *COMMON, *FLAVOUR)

    assert find_headers(None, scratch, root=root) == Headers(tree, None)


def test_kheaders_are_left_to_bcc(root: Path, scratch: Path) -> None:
    install(root, "sys/kernel/kheaders.tar.xz")
    install(root / "usr/src/kernels/6.9.1", *COMMON, *FLAVOUR)

    assert find_headers(None, scratch, root=root) == Headers(None, None)


def test_an_option_goes_before_the_environment(root: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (install(root / name, *COMMON, *FLAVOUR) for name in ("ours", "theirs"))
    monkeypatch.setenv("BCC_KERNEL_SOURCE", str(theirs))

    assert find_headers(ours, scratch, root=root) == Headers(ours, None)
    assert find_headers(None, scratch, root=root) == Headers(theirs, None)


def test_an_option_that_names_half_of_a_pair_gets_the_other_half(root: Path, scratch: Path) -> None:
    install(root / "usr/src/linux-headers-6.1.0-56-common", *COMMON)
    flavour = install(root / "usr/src/linux-headers-6.1.0-56-amd64", *FLAVOUR)

    path = find_headers(flavour, scratch, root=root).path

    assert path is not None
    assert (path / "include/linux/kconfig.h").exists()


def test_an_option_without_headers_is_an_error_that_says_what_is_missing(root: Path, scratch: Path) -> None:
    tree = install(root / "some", *COMMON)

    with pytest.raises(HeadersError, match=r"include/generated/autoconf\.h"):
        find_headers(tree, scratch, root=root)


@pytest.mark.parametrize(
    ("os_release", "kernel", "end"),
    [
        pytest.param(
            "ID=debian\n",
            "var/lib/dpkg/info/linux-image-{release}.list",
            "; to use the kernel's own: apt install linux-headers-{release}",
            id="Debian's kernel",
        ),
        pytest.param(
            "ID=debian\n",
            "var/lib/dpkg/info/linux-image-0-none.list",
            ", nothing need be done",
            id="a kernel that is not Debian's",
        ),
        pytest.param(
            "ID=fedora\n",
            "lib/modules/{release}/modules.dep",
            "; to use the kernel's own: dnf install kernel-devel-{release}",
            id="Fedora's kernel",
        ),
        pytest.param("ID=fedora\n", "lib/modules/0/modules.dep", ", nothing need be done", id="a container"),
        pytest.param("", "lib/modules/{release}/modules.dep", ", nothing need be done", id="an unknown system"),
    ],
)
def test_the_warning_says_whether_there_is_something_to_do(
    os_release: str, kernel: str, end: str, root: Path, scratch: Path
) -> None:
    tree = install(root / "usr/src/kernels/6.9.1", *COMMON, *FLAVOUR)
    install(root, kernel.format(release=platform.release()))
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text(os_release)

    warning = find_headers(None, scratch, root=root).warning

    assert warning is not None
    assert warning.startswith(f"no headers of the running kernel {platform.release()}: those in {tree} serve for user-")
    assert warning.endswith("space probes" + end.format(release=platform.release()))


@pytest.mark.parametrize(
    ("os_release", "command"),
    [
        ("ID=debian\n", "apt install linux-headers-"),
        ('ID=linuxmint\nID_LIKE="ubuntu debian"\n', "linux-headers-generic"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "dnf install kernel-devel"),
        ("ID=alpine\n", "apk add linux-lts-dev"),
        ("ID=arch\n", "pacman -S linux-headers"),
        ("", "pacman -S linux-headers"),
    ],
)
def test_without_headers_the_error_names_the_package(os_release: str, command: str, root: Path, scratch: Path) -> None:
    if os_release:
        (root / "etc").mkdir()
        (root / "etc/os-release").write_text(os_release)

    with pytest.raises(HeadersError) as caught:
        find_headers(None, scratch, root=root)

    assert command in str(caught.value)
    assert platform.release() in str(caught.value)
