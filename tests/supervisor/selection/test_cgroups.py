"""What is read from the paths of control groups, as systemd and container runtimes make them."""

import pytest

from ebpf_userspace_exporter.supervisor.selection.cgroups import cgroup_path, container_id, systemd_unit

ID = "1f0e" * 16
OTHER_ID = "ab12" * 16


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("0::/system.slice/ssh.service\n", "/system.slice/ssh.service", id="unified"),
        pytest.param("0::/\n", "/", id="root"),
        pytest.param("", "/", id="nothing"),
        pytest.param(
            "2:cpu,cpuacct:/\n1:name=systemd:/system.slice/ssh.service\n", "/system.slice/ssh.service", id="v1"
        ),
        pytest.param(
            f"3:memory:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/system.slice/docker.service\n",
            f"/docker/{ID}",
            id="hybrid",
        ),
        pytest.param("1:name=systemd:/\n0::/own\n", "/own", id="hybrid, unified only"),
        pytest.param(f"2:memory:/docker/{ID}\n1:cpu:/\n", f"/docker/{ID}", id="v1 without systemd"),
        pytest.param("0::/a:b:c\n", "/a:b:c", id="colons"),
        pytest.param("0::/a\x0bb\x1c\u2028c\n", "/a\x0bb\x1c\u2028c", id="what str takes for ends of lines"),
        pytest.param("0::/gone (deleted)\n", "/gone", id="deleted"),
        pytest.param("0::/../sibling\n", "/../sibling", id="outside of our cgroup namespace"),
    ],
)
def test_path_is_the_one_that_says_most(content: str, expected: str) -> None:
    assert cgroup_path(content) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("/system.slice/postgresql@15-main.service", "postgresql@15-main.service", id="service"),
        pytest.param("/user.slice/user-1000.slice/session-3.scope", "session-3.scope", id="scope"),
        pytest.param(
            "/user.slice/user-1000.slice/user@1000.service/app.slice/shop.service", "shop.service", id="innermost"
        ),
        pytest.param("/user.slice/user@1000.service/init.scope", "user@1000.service", id="service over scope"),
        pytest.param("/system.slice", None, id="slice"),
        pytest.param("/", None, id="root"),
        pytest.param("/service/scope", None, id="names without an ending"),
    ],
)
def test_unit_is_the_innermost_service_else_scope(path: str, expected: str | None) -> None:
    assert systemd_unit(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param(f"/system.slice/docker-{ID}.scope", ID, id="docker, systemd"),
        pytest.param(f"/docker/{ID}", ID, id="docker, cgroupfs"),
        pytest.param(f"/kubepods.slice/kubepods-pod1_2.slice/cri-containerd-{ID}.scope", ID, id="containerd"),
        pytest.param(f"/kubepods.slice/kubepods-pod1.slice/crio-{ID}.scope", ID, id="cri-o"),
        pytest.param(f"/kubepods/burstable/pod0a1b2c3d-1111-2222-3333-444455556666/{ID}", ID, id="kubepods, cgroupfs"),
        pytest.param(f"/system.slice/kubepods-pod1.slice:cri-containerd:{ID}", ID, id="containerd, a slice as a name"),
        pytest.param(f"/machine.slice/libpod-{ID}.scope/container", ID, id="podman"),
        pytest.param(f"/machine.slice/libpod-conmon-{ID}.scope", None, id="podman's monitor"),
        pytest.param(f"/kubepods.slice/crio-conmon-{ID}.scope", None, id="cri-o's monitor"),
        pytest.param(f"/docker/{ID}/kubelet.slice/cri-containerd-{OTHER_ID}.scope", OTHER_ID, id="within another"),
        pytest.param(f"/system.slice/docker-{ID}.scope/system.slice/nginx.service", ID, id="systemd within"),
        pytest.param(f"/docker/{ID[:-1]}", None, id="too short"),
        pytest.param(f"/docker/{ID}0", None, id="too long"),
        pytest.param(f"/docker/{ID.upper()}", None, id="upper case"),
        pytest.param("/system.slice/docker.service", None, id="docker itself"),
        pytest.param("/", None, id="root"),
    ],
)
def test_container_is_the_innermost_one(path: str, expected: str | None) -> None:
    assert container_id(path) == expected
