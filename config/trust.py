"""Who could have written a config: its code runs in the kernel, so only root and who became root may."""

import os
import pwd
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path


def distrust(descriptor: int) -> list[str]:
    """Return why the opened file cannot be trusted, one reason per file or folder, each with the command that mends it.

    The file and every folder above it must belong to root, or to the user who called sudo, and be writable by nobody
    else. The path is the kernel's own for the opened file, so no link can be exchanged between check and use.
    """
    try:
        real_path = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError as error:
        return [f"is not trusted: its folders cannot be checked: /proc/self/fd: {error.strerror}"]
    status = os.fstat(descriptor)
    if status.st_nlink == 0:
        return ["was replaced while it was opened; try again"]
    owners = {0, *_sudo_user()}
    reasons = list(_reasons(real_path, status, owners, is_read_only=_is_read_only(descriptor)))
    for folder in real_path.parents:
        try:
            found = folder.stat()
            is_read_only = bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        except OSError as error:
            reasons.append(f"is not trusted: {_shown(folder)} cannot be checked: {error.strerror}")
            continue
        reasons += _reasons(folder, found, owners, is_read_only=is_read_only)
    return reasons


def _sudo_user() -> Iterator[int]:
    uid = os.environ.get("SUDO_UID", "")
    if uid.isascii() and uid.isdigit():
        yield int(uid)


def _is_read_only(descriptor: int) -> bool:
    return bool(os.fstatvfs(descriptor).f_flag & os.ST_RDONLY)


def _reasons(path: Path, status: os.stat_result, owners: set[int], *, is_read_only: bool) -> Iterator[str]:
    mode = stat.S_IMODE(status.st_mode)
    seen = f"{_shown(path)} (owner {_user(status.st_uid)}, mode {mode:04o})"
    if status.st_uid not in owners:
        allowed = " or ".join(_user(uid) for uid in sorted(owners))
        yield f"is not trusted: {seen} must belong to {allowed}: chown root {_shown(path)}"
    # Kubernetes mounts ConfigMap volumes read-only, and their top folder has mode 0777. In a sticky folder nobody can
    # exchange what belongs to another, and the owner of what lies in it is checked.
    is_sticky_folder = stat.S_ISDIR(status.st_mode) and bool(mode & stat.S_ISVTX)
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not is_sticky_folder and not is_read_only:
        yield f"is not trusted: {seen} is writable by others: chmod go-w {_shown(path)}"


def _shown(path: Path) -> str:
    text = shlex.quote(str(path))
    return text if text.isprintable() else ascii(str(path))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
