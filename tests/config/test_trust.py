"""Who may have written a config; with real files, owners and modes."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpf_userspace_exporter.config.errors import ConfigError
from ebpf_userspace_exporter.config.load import load_config

NOBODY = 65534

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="changes owners")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that is trusted, also if its parents were not root's before."""
    monkeypatch.delenv("SUDO_UID", raising=False)
    inner = tmp_path / "etc"
    inner.mkdir(mode=0o755)
    yield inner
    os.chown(inner, 0, 0)


@pytest.fixture
def config(folder: Path, counter_yaml: str) -> Path:
    file = folder / "programs.yaml"
    file.write_text(counter_yaml)
    file.chmod(0o644)
    return file


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, trusted=True)
    return str(caught.value)


def is_loaded(path: Path) -> bool:
    return len(load_config(path, trusted=True).config.programs) == 1


def test_a_file_of_root_in_folders_of_root_is_trusted(config: Path) -> None:
    assert is_loaded(config)


def test_a_file_of_another_user_is_refused(config: Path) -> None:
    os.chown(config, NOBODY, 0)

    assert refusal(config) == (
        f"{config}: is not trusted: {config} (owner nobody, mode 0644) must belong to root: chown root {config}"
    )


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(config: Path, mode: int) -> None:
    config.chmod(mode)

    assert refusal(config) == (
        f"{config}: is not trusted: {config} (owner root, mode {mode:04o}) is writable by others: chmod go-w {config}"
    )


def test_a_folder_above_that_others_can_write_is_refused(config: Path) -> None:
    folder = config.parent
    folder.chmod(0o777)

    assert refusal(config) == (
        f"{config}: is not trusted: {folder} (owner root, mode 0777) is writable by others: chmod go-w {folder}"
    )


def test_every_reason_is_told_at_once(config: Path) -> None:
    os.chown(config, NOBODY, 0)
    config.chmod(0o666)
    os.chown(config.parent, NOBODY, 0)

    assert len(refusal(config).splitlines()) == 3


def test_a_sticky_folder_is_trusted_because_nobody_can_exchange_what_root_has_in_it(config: Path) -> None:
    config.parent.chmod(0o1777)

    assert is_loaded(config)


def test_a_sticky_folder_does_not_help_a_file_of_another_user(config: Path) -> None:
    config.parent.chmod(0o1777)
    os.chown(config, NOBODY, 0)

    assert "must belong to root" in refusal(config)


def test_who_called_sudo_is_trusted_beside_root(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(config, NOBODY, 0)
    os.chown(config.parent, NOBODY, 0)
    monkeypatch.setenv("SUDO_UID", str(NOBODY))

    assert is_loaded(config)


@pytest.mark.parametrize("uid", ["", "-1", "nobody", "65534 ", "1"])
def test_a_sudo_uid_that_is_another_or_none_helps_nobody(
    config: Path, monkeypatch: pytest.MonkeyPatch, uid: str
) -> None:
    os.chown(config, NOBODY, 0)
    monkeypatch.setenv("SUDO_UID", uid)

    assert "is not trusted" in refusal(config)


def test_the_links_of_a_config_map_volume_are_followed(config: Path) -> None:
    volume = config.parent / "volume"
    (volume / "..2024_01_01").mkdir(parents=True)
    config.rename(volume / "..2024_01_01" / "programs.yaml")
    (volume / "..data").symlink_to("..2024_01_01")
    (volume / "programs.yaml").symlink_to("..data/programs.yaml")

    assert is_loaded(volume / "programs.yaml")


def test_the_folders_of_the_file_itself_count_and_not_those_of_the_link(config: Path, folder: Path) -> None:
    link = folder.parent / "link.yaml"
    link.symlink_to(config)
    config.parent.chmod(0o777)

    assert f"{folder} (owner root, mode 0777) is writable by others" in refusal(link)


def test_nothing_is_checked_for_who_loads_nothing_into_a_kernel(config: Path) -> None:
    os.chown(config, NOBODY, 0)

    assert load_config(config, trusted=False).warnings == ()


@pytest.fixture
def read_only_volume(config: Path, mount_read_only: Callable[[Path], Path]) -> Path:
    config.parent.chmod(0o777)
    return mount_read_only(config.parent)


@pytest.fixture
def mount_read_only(tmp_path: Path) -> Iterator[Callable[[Path], Path]]:
    mounted: list[Path] = []

    def mount(folder: Path) -> Path:
        place = tmp_path / "mounted"
        place.mkdir()
        if os.system(f"mount --bind -o ro {folder} {place} 2>/dev/null"):  # noqa: S605 - our own names
            pytest.skip("needs the right to mount")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        assert os.system(f"umount {place}") == 0  # noqa: S605


def test_a_config_map_s_top_folder_is_trusted_because_its_mount_is_read_only(read_only_volume: Path) -> None:
    assert (read_only_volume.stat().st_mode & 0o777) == 0o777

    assert is_loaded(read_only_volume / "programs.yaml")
