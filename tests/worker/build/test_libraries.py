"""An executable's libraries are those that the dynamic loader finds, which ldd asks."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ebpf_userspace_exporter.worker.build.address_spaces import BinarySpace
from ebpf_userspace_exporter.worker.build.libraries import Library, needed_libraries, open_regular
from ebpf_userspace_exporter.worker.elf import ElfError
from ebpf_userspace_exporter.worker.reasons import AttachError, Reason


def ldd(binary: Path) -> dict[str, str]:
    # Of the file itself: for ldd, unlike for a process, $ORIGIN is the folder of a link to it.
    done = subprocess.run(["ldd", binary.resolve()], capture_output=True, text=True, check=True, timeout=60)
    found = re.findall(r"^\t(?:(\S+) => )?(/\S+) \(0x", done.stdout, re.MULTILINE)
    return {name or os.path.basename(path): os.path.realpath(path) for name, path in found}  # noqa: PTH119


def named(libraries: list[Library]) -> dict[str, str]:
    return {library.name: str(library.path) for library in libraries}


@pytest.mark.parametrize("binary", ["/usr/bin/python3", "/usr/lib/postgresql/15/bin/postgres", "/usr/bin/java"])
def test_the_loader_s_cache_and_runpath_are_followed_as_the_loader_does(binary: str) -> None:
    expected = ldd(Path(binary))

    assert named(needed_libraries(Path(binary))) == expected
    assert len(expected) >= 3


@pytest.mark.parametrize("tag", ["--enable-new-dtags", "--disable-new-dtags"])
def test_origin_is_the_folder_of_who_asks(tag: str, compile_c: Any, tmp_path: Path) -> None:
    inner = compile_c(
        "int inner(void) { return 1; }", "-shared", "-fPIC", "-Wl,-soname,libinner.so", name="libinner.so"
    )
    outer = compile_c(
        "int inner(void); int outer(void) { return inner(); }",
        *(
            "-shared",
            "-fPIC",
            "-Wl,-soname,libouter.so",
            str(inner),
            f"-Wl,{tag},-rpath,$ORIGIN/../{inner.parent.name}",
        ),
        name="libouter.so",
    )
    binary = compile_c(
        "int outer(void); int main(void) { return outer(); }",
        *(str(outer), f"-Wl,{tag},-rpath,${{ORIGIN}}/../{outer.parent.name}", f"-Wl,-rpath-link,{inner.parent}"),
    )

    found = named(needed_libraries(binary))

    assert {name: path for name, path in found.items() if not name.startswith(("libc.", "ld-"))} == {
        "libouter.so": str(outer),
        "libinner.so": str(inner),
    }


def test_a_library_that_is_nowhere_is_named_without_a_path(compile_c: Any) -> None:
    library = compile_c("int lost(void) { return 1; }", "-shared", "-fPIC", name="liblost.so")
    binary = compile_c(
        "int lost(void); int main(void) { return lost(); }", "-L", str(library.parent), "-llost", "-Wl,--no-as-needed"
    )
    library.unlink()

    assert Library("liblost.so", None) in needed_libraries(binary)
    space = BinarySpace(binary)
    [mapped] = [mapped for mapped in space.mapped if mapped.path == "liblost.so"]
    with pytest.raises(AttachError, match="the dynamic loader would not find it"):
        space.open(mapped)


def test_a_library_of_another_machine_is_passed_over(compile_c: Any, tmp_path: Path) -> None:
    library = compile_c("int one(void) { return 1; }", "-shared", "-fPIC", "-Wl,-soname,libone.so", name="libone.so")
    foreign = bytearray(library.read_bytes())
    foreign[18:20] = (183).to_bytes(2, "little")  # EM_AARCH64
    (tmp_path / "libone.so").write_bytes(foreign)
    binary = compile_c(
        "int one(void); int main(void) { return one(); }", str(library), f"-Wl,-rpath,{tmp_path}:{library.parent}"
    )

    assert Library("libone.so", library) in needed_libraries(binary)


@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"#!/bin/sh\n"], ids=["empty", "cut", "script"])
def test_what_is_no_elf_file_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(content)

    with pytest.raises(ElfError):
        needed_libraries(file)
    with pytest.raises(AttachError, match=re.escape(f"{file}: ")) as caught:
        BinarySpace(file)
    assert caught.value.reason is Reason.FILE_NOT_FOUND


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(OSError, match="is no regular file"):
        open_regular(tmp_path / "pipe")


def test_a_directory_is_told(tmp_path: Path) -> None:
    with pytest.raises(AttachError, match="is a directory, expected a file"):
        BinarySpace(tmp_path)
