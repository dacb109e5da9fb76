"""A config file is opened once, looked at as what was opened, and read with a limit."""

import os
import stat
from pathlib import Path

from ebpf_userspace_exporter.config.errors import ConfigError, Problem
from ebpf_userspace_exporter.config.trust import distrust

MAX_FILE_BYTES = 1 << 20


def read_text(path: Path, *, trusted: bool) -> str:
    """Return the file's text; ConfigError where it cannot be read, is no text, or `trusted` is asked for and not so."""
    source = str(path)
    try:
        # A FIFO would wait for a writer without O_NONBLOCK. Links are followed: ConfigMap volumes are made of them.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError([Problem(source, None, (), _why_not_opened(error))]) from error
    except ValueError as error:
        raise ConfigError([Problem(source, None, (), "the path holds a NUL")]) from error
    try:
        content = _read(descriptor, source, trusted=trusted)
    finally:
        os.close(descriptor)
    if len(content) > MAX_FILE_BYTES:
        raise ConfigError([Problem(source, None, (), f"is larger than {MAX_FILE_BYTES} bytes; is this a config?")])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError([Problem(source, line, (), f"byte 0x{content[error.start]:02x} is not UTF-8")]) from error


def _read(descriptor: int, source: str, *, trusted: bool) -> bytes:
    """Return the file's bytes, one more than allowed at most."""
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise ConfigError([Problem(source, None, (), f"is {_kind(mode)}; expected a file")])
    if trusted and (reasons := distrust(descriptor)):
        raise ConfigError(Problem(source, None, (), reason) for reason in reasons)
    content = b""
    try:
        while len(content) <= MAX_FILE_BYTES and (chunk := os.read(descriptor, MAX_FILE_BYTES + 1 - len(content))):
            content += chunk
    except OSError as error:
        raise ConfigError([Problem(source, None, (), f"cannot be read: {error.strerror}")]) from error
    return content


def _why_not_opened(error: OSError) -> str:
    match error:
        case FileNotFoundError():
            return "no such file"
        case PermissionError():
            return f"may not be read by user {os.geteuid()}"
        case _:
            return f"cannot be opened: {error.strerror}"


def _kind(mode: int) -> str:
    for is_kind, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if is_kind(mode):
            return name
    return "no regular file"
