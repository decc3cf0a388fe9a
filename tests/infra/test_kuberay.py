"""The manifests: what is rendered is what KubeRay and Kubernetes take, and what it starts is there."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from pipeline import config
from tests.infra.commands import parsed
from tests.infra.manifests import ENVIRONMENTS, KUBERAY, Manifest, containers, only, pods, rendered, tonight

CRDS = os.environ.get("CAPTIONMILL_KUBERAY_CRDS")
KUBERNETES = "1.34"
DOCKERFILE = (KUBERAY.parent / "Dockerfile").read_text()
PLAIN = [f"overlays/{name}" for name in ENVIRONMENTS]
RAY = ["base/nodes", "base/run", "raycronjob", *(f"overlays/{name}/nodes" for name in ENVIRONMENTS)]

pytestmark = pytest.mark.skipif(
    not shutil.which("kubectl"), reason="needs kubectl, which has kustomize in it"
)


def strict(schema: Any) -> Any:
    """A schema that takes no fields but its own: the API server would drop them without a word."""
    match schema:
        case {"properties": dict(properties)}:
            known = {**schema, "properties": {name: strict(value) for name, value in properties.items()}}
            open_ = {"additionalProperties", "x-kubernetes-preserve-unknown-fields"} & known.keys()
            return known if open_ else known | {"additionalProperties": False}
        case {"items": items}:
            return {**schema, "items": strict(items)}
        case {"additionalProperties": dict(some)}:
            return {**schema, "additionalProperties": strict(some)}
    return schema


def crd(kind: str) -> Any:
    """KubeRay's own schema of a kind."""
    assert CRDS
    told = yaml.safe_load((Path(CRDS) / f"ray.io_{kind.lower()}s.yaml").read_text())
    (version,) = [v for v in told["spec"]["versions"] if v["name"] == "v1"]
    schema = version["schema"]["openAPIV3Schema"]
    return strict(schema | {"properties": schema["properties"] | {"metadata": {"type": "object"}}})


def all_manifests(tmp_path: Path) -> Iterator[Manifest]:
    """Everything that anybody may send, RayJobs of the night too."""
    for folder in (*PLAIN, *RAY):
        yield from rendered(KUBERAY / folder)
    for environment in ENVIRONMENTS:
        yield tonight(environment, tmp_path / environment)


@pytest.mark.skipif(not CRDS, reason="CAPTIONMILL_KUBERAY_CRDS does not say where KubeRay's CRDs are")
@pytest.mark.parametrize("folder", RAY)
def test_kuberays_own_schemas_take_every_field(folder: str) -> None:
    for manifest in rendered(KUBERAY / folder):
        jsonschema.Draft202012Validator(crd(manifest["kind"])).validate(manifest)


@pytest.mark.skipif(not CRDS, reason="CAPTIONMILL_KUBERAY_CRDS does not say where KubeRay's CRDs are")
@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_kuberays_own_schema_takes_what_the_cronjob_creates(environment: str, tmp_path: Path) -> None:
    jsonschema.Draft202012Validator(crd("RayJob")).validate(tonight(environment, tmp_path))


@pytest.mark.skipif(not CRDS, reason="CAPTIONMILL_KUBERAY_CRDS does not say where KubeRay's CRDs are")
def test_the_schemas_refuse_a_field_that_they_do_not_know(tmp_path: Path) -> None:
    job: Any = tonight(ENVIRONMENTS[0], tmp_path)
    told = {**job, "spec": {**job["spec"], "ttlSecondsAfterFinish": 1}}

    with pytest.raises(jsonschema.ValidationError, match="ttlSecondsAfterFinish"):
        jsonschema.Draft202012Validator(crd("RayJob")).validate(told)


@pytest.mark.parametrize("folder", PLAIN)
def test_kubernetes_own_schemas_take_every_field(folder: str) -> None:
    for manifest in rendered(KUBERAY / folder):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_entrypoint_is_a_command_and_its_job_file_is_mounted_and_right(
    environment: str, tmp_path: Path
) -> None:
    job = tonight(environment, tmp_path)
    written = only(rendered(KUBERAY / "overlays" / environment), "ConfigMap", "captionmill-job")["data"][
        "job.toml"
    ]
    (tmp_path / "job.toml").write_text(written)
    head = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {m["mountPath"]: m["name"] for m in head["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in head["volumes"]}

    assert parsed(job["spec"]["entrypoint"], tmp_path / "job.toml").params["as_json"]
    assert volumes[mounts["/etc/captionmill"]]["configMap"]["name"] == "captionmill-job"
    assert config.read(written).problems == ()


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_replicas_of_the_job_find_their_gpus(environment: str, tmp_path: Path) -> None:
    job = tonight(environment, tmp_path)
    written = only(rendered(KUBERAY / "overlays" / environment), "ConfigMap", "captionmill-job")["data"][
        "job.toml"
    ]
    wanted = config.read(written).job().cluster
    groups = {g["groupName"]: g for g in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}
    gpus = int(groups["gpu"]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])

    assert wanted.gpus_per_replica <= gpus
    assert wanted.replicas * wanted.gpus_per_replica <= groups["gpu"]["maxReplicas"] * gpus


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_the_night_and_the_cluster_that_stays_have_the_same_nodes(environment: str, tmp_path: Path) -> None:
    (cluster,) = rendered(KUBERAY / "overlays" / environment / "nodes")
    job = tonight(environment, tmp_path)["spec"]

    assert job["rayClusterSpec"] == cluster["spec"]
    images = {c["image"] for pod in pods(job) for c in containers(pod)}
    assert len(images) == 1


def test_no_secret_reaches_an_environment_and_what_names_one_is_mounted(tmp_path: Path) -> None:
    for manifest in all_manifests(tmp_path):
        for pod in pods(manifest):
            for container in containers(pod):
                places = [m["mountPath"] for m in container.get("volumeMounts", ())]
                assert not [e for e in container.get("envFrom", ()) if "secretRef" in e]
                for variable in container.get("env", ()):
                    assert "valueFrom" not in variable
                    assert any(variable["value"].startswith(place) for place in places), variable


def test_every_pod_is_confined(tmp_path: Path) -> None:
    seen = 0
    for manifest in all_manifests(tmp_path):
        for pod in pods(manifest):
            assert pod["securityContext"]["runAsNonRoot"]
            volumes = {volume["name"] for volume in pod.get("volumes", ())}
            for container in containers(pod):
                seen += 1
                own = container["securityContext"]
                assert own["readOnlyRootFilesystem"]
                assert not own["allowPrivilegeEscalation"]
                assert own["capabilities"] == {"drop": ["ALL"]}
                assert {"requests", "limits"} <= container["resources"].keys()
                assert {m["name"] for m in container["volumeMounts"]} <= volumes
    assert seen > 20


def test_pods_run_as_the_image_does(tmp_path: Path) -> None:
    (user,) = re.findall(r"^USER (\d+):\d+$", DOCKERFILE, re.MULTILINE)
    job = tonight(ENVIRONMENTS[0], tmp_path)

    for pod in pods(job):
        assert pod["securityContext"]["runAsUser"] == int(user)
        writable = {m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if not m.get("readOnly")}
        assert re.findall(r"HOME=(\S+)", DOCKERFILE)[0] in writable


def test_a_night_ends_before_the_next_and_ticks_do_not_pile_up(tmp_path: Path) -> None:
    for environment in ENVIRONMENTS:
        night = only(rendered(KUBERAY / "overlays" / environment), "CronJob")["spec"]
        assert night["concurrencyPolicy"] == "Forbid"
        assert tonight(environment, tmp_path / environment)["spec"]["activeDeadlineSeconds"] < 24 * 3600


def test_whoever_starts_the_night_may_do_what_it_does_and_no_more() -> None:
    manifests = rendered(KUBERAY / "overlays" / ENVIRONMENTS[0])
    pod = only(manifests, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    (rule,) = only(manifests, "Role")["rules"]

    assert pod["serviceAccountName"] == only(manifests, "RoleBinding")["subjects"][0]["name"]
    assert [c["args"][0] for c in containers(pod)] == ["delete", "create"]
    assert rule == {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": rule["verbs"]}
    assert {*rule["verbs"]} == {"get", "list", "watch", "create", "delete"}
