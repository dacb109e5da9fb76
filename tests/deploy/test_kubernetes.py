"""The sidecar manifest: what it may do, and that it carries the example that ships."""

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MANIFEST = ROOT / "deploy/kubernetes/sidecar.yaml"


@pytest.fixture
def manifests() -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(MANIFEST.read_text())}


@pytest.fixture
def pod(manifests: dict[str, Any]) -> Any:
    return manifests["Deployment"]["spec"]["template"]["spec"]


@pytest.fixture
def exporter(pod: Any) -> Any:
    (found,) = [container for container in pod["containers"] if container["name"] == "exporter"]
    return found


def test_containers_share_their_processes_and_not_the_hosts(pod: Any) -> None:
    assert pod["shareProcessNamespace"] is True
    assert not pod.get("hostPID", False)
    assert pod["automountServiceAccountToken"] is False


def test_no_container_is_privileged_and_all_drop_what_they_do_not_name(pod: Any) -> None:
    for container in pod["containers"]:
        context = container["securityContext"]
        assert not context.get("privileged", False)
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_exporter_has_the_capabilities_of_the_unit(exporter: Any) -> None:
    unit = (ROOT / "systemd/ebpf-userspace-exporter.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    of_the_unit = {name.removeprefix("CAP_") for name in line.partition("=")[2].split()}

    assert set(exporter["securityContext"]["capabilities"]["add"]) == of_the_unit


def test_root_file_system_is_read_only_and_the_state_is_in_memory(pod: Any, exporter: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    writable = [mount for mount in exporter["volumeMounts"] if not mount.get("readOnly")]

    assert exporter["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in writable] == ["/run"]
    assert volumes[writable[0]["name"]]["emptyDir"]["medium"] == "Memory"


def test_probes_ask_the_exporters_own_pages(exporter: Any) -> None:
    assert exporter["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    assert exporter["livenessProbe"]["httpGet"]["path"] == "/-/healthy"


def test_config_map_holds_the_shipped_example(manifests: dict[str, Any]) -> None:
    example = yaml.safe_load((ROOT / "examples/gunicorn-gc/config.yaml").read_text())

    assert yaml.safe_load(manifests["ConfigMap"]["data"]["programs.yaml"]) == example
