"""The Kubernetes manifests: that a cluster knows every field, that they fit together, and what they may do."""

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.product.programs import PYTHON
from tests.supervisor.commands.command import command

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy/kubernetes"
SCHEMAS = kubernetes_validate.latest_version()
BASES = ("sidecar", "daemonset")
# Not Kubernetes' own, so there is no schema of theirs in the package.
FOREIGN = {"Kustomization", "Component", "PodMonitor"}

Manifests = dict[str, Any]


@pytest.fixture(params=BASES)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return resources(request.param)


@pytest.fixture
def workload(manifests: Manifests) -> Any:
    (found,) = [manifest for kind, manifest in manifests.items() if kind in {"Deployment", "DaemonSet"}]
    return found


@pytest.fixture
def pod(workload: Any) -> Any:
    return workload["spec"]["template"]["spec"]


@pytest.fixture
def exporter(pod: Any) -> Any:
    return pod["containers"][0]


@pytest.mark.parametrize("base", BASES)
def test_kustomization_names_every_file_of_its_folder(base: str) -> None:
    named = kustomization(base)["resources"]

    assert sorted([*named, "kustomization.yaml"]) == sorted(path.name for path in (FOLDER / base).iterdir())


def test_kubernetes_knows_every_field(manifests: Manifests) -> None:
    for kind in manifests.keys() - FOREIGN:
        kubernetes_validate.validate(manifests[kind], SCHEMAS, strict=True)


def test_schemas_refuse_a_field_that_is_none() -> None:
    deployment = resources("sidecar")["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0]["readOnlyRootFilesystem"] = True

    with pytest.raises(kubernetes_validate.ValidationError, match="readOnlyRootFilesystem"):
        kubernetes_validate.validate(deployment, SCHEMAS, strict=True)


def test_selectors_and_ports_are_those_of_the_pod(manifests: Manifests, workload: Any) -> None:
    template = workload["spec"]["template"]
    ports = {port["name"] for container in template["spec"]["containers"] for port in container["ports"]}
    rules = manifests["NetworkPolicy"]["spec"]["ingress"]
    endpoints = manifests["PodMonitor"]["spec"]["podMetricsEndpoints"]

    assert workload["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert manifests["PodMonitor"]["spec"]["selector"]["matchLabels"] == template["metadata"]["labels"]
    assert manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"] == template["metadata"]["labels"]
    assert {port["port"] for rule in rules for port in rule["ports"]} == ports
    assert [endpoint["port"] for endpoint in endpoints] == ["metrics"]


def test_sidecar_shares_processes_with_its_pod_and_daemonset_with_its_node() -> None:
    sidecar, daemonset = (resources(base)[kind] for base, kind in zip(BASES, ("Deployment", "DaemonSet"), strict=True))
    of_pod, of_node = (workload["spec"]["template"]["spec"] for workload in (sidecar, daemonset))

    assert of_pod["shareProcessNamespace"] is True
    assert "hostPID" not in of_pod
    assert of_node["hostPID"] is True
    assert of_pod["automountServiceAccountToken"] is False
    assert of_node["automountServiceAccountToken"] is False


def test_no_container_is_privileged_and_all_drop_what_they_do_not_name(pod: Any) -> None:
    for container in pod["containers"]:
        context = container["securityContext"]
        assert not context.get("privileged", False)
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"]["drop"] == ["ALL"]
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_exporter_has_the_capabilities_of_the_unit_and_one_for_what_systemd_does_there(exporter: Any) -> None:
    unit = (ROOT / "systemd/ebpf-userspace-exporter.service").read_text()
    (line,) = [line for line in unit.splitlines() if line.startswith("CapabilityBoundingSet=")]
    of_the_unit = {name.removeprefix("CAP_") for name in line.partition("=")[2].split()}

    assert set(exporter["securityContext"]["capabilities"]["add"]) == of_the_unit | {"CHOWN"}


def test_component_adds_sys_admin_to_the_exporter(exporter: Any) -> None:
    (patch,) = kustomization("sys-admin")["patches"]
    test, add = yaml.safe_load(patch["patch"])
    *path, end = add["path"].removeprefix("/spec/template/spec/containers/0/").split("/")

    assert patch["target"] == {"kind": "Deployment|DaemonSet"}
    assert (test["path"], test["value"]) == ("/spec/template/spec/containers/0/name", exporter["name"])
    assert (path, end, add["value"]) == (["securityContext", "capabilities", "add"], "-", "SYS_ADMIN")


def test_root_file_system_is_read_only_and_the_state_is_in_memory(pod: Any, exporter: Any) -> None:
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    writable = [mount for mount in exporter["volumeMounts"] if not mount.get("readOnly")]

    assert exporter["securityContext"]["readOnlyRootFilesystem"] is True
    assert [mount["mountPath"] for mount in writable] == ["/run"]
    assert volumes[writable[0]["name"]]["emptyDir"]["medium"] == "Memory"


def test_config_map_is_mounted_as_a_folder_and_watched(manifests: Manifests, pod: Any, exporter: Any) -> None:
    (mount,) = [mount for mount in exporter["volumeMounts"] if mount["name"] == "config"]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "config"]

    assert "subPath" not in mount  # such a file would never change
    assert volume["configMap"]["name"] == manifests["ConfigMap"]["metadata"]["name"]
    assert "--reload-on-change" in exporter["args"]


def test_probes_ask_the_exporters_own_pages(exporter: Any) -> None:
    assert exporter["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    assert exporter["livenessProbe"]["httpGet"]["path"] == "/-/healthy"


def test_config_map_of_the_sidecar_holds_the_shipped_example() -> None:
    example = yaml.safe_load((ROOT / "examples/gunicorn-gc/config.yaml").read_text())

    assert yaml.safe_load(resources("sidecar")["ConfigMap"]["data"]["programs.yaml"]) == example


@pytest.mark.bpf
def test_config_map_of_the_daemonset_compiles(tmp_path: Path) -> None:
    config = tmp_path / "programs.yaml"
    config.write_text(resources("daemonset")["ConfigMap"]["data"]["programs.yaml"])

    done = command("check", config, "--binary", PYTHON, "--strict")

    assert done.returncode == 0, done.stdout + done.stderr


def kustomization(folder: str) -> Any:
    """Return what a folder's kustomization.yaml says."""
    return yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())


def resources(base: str) -> Manifests:
    """Return the manifests of a base by their kind."""
    documents = [yaml.safe_load((FOLDER / base / name).read_text()) for name in kustomization(base)["resources"]]
    return {document["kind"]: document for document in documents}
