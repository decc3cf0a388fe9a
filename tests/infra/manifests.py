"""What `kubectl apply -k` would send, and what the CronJob's `kubectl create -k` does in its pod."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import INFRA, run

KUBERAY = INFRA / "kuberay"
ENVIRONMENTS = sorted(folder.name for folder in (KUBERAY / "overlays").iterdir())
Manifest = Mapping[str, Any]


@cache
def rendered(folder: Path) -> tuple[Manifest, ...]:
    """The manifests of a kustomization."""
    told = run(["kubectl", "kustomize", str(folder)])
    assert told.returncode == 0, told.stderr
    return tuple(filter(None, yaml.safe_load_all(told.stdout)))


def only(manifests: tuple[Manifest, ...], kind: str, name: str | None = None) -> Manifest:
    """The one of this kind, and name."""
    found = [m for m in manifests if m["kind"] == kind and name in (None, m["metadata"]["name"])]
    assert len(found) == 1, f"{len(found)} of kind {kind}"
    return found[0]


def mount(manifests: tuple[Manifest, ...], volume: Manifest, folder: Path) -> None:
    """Lay out the files of a ConfigMap's volume as a kubelet does: links into a folder that can be swapped."""
    source = volume["configMap"]
    data = only(manifests, "ConfigMap", source["name"])["data"]
    items = source.get("items") or [{"key": key, "path": key} for key in data]
    real = folder / "..2026_11_23"
    for item in items:
        path = real / item["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data[item["key"]])
    (folder / "..data").symlink_to(real.name)
    for name in {Path(item["path"]).parts[0] for item in items}:
        (folder / name).symlink_to(Path("..data", name))


def tonight(environment: str, folder: Path) -> Manifest:
    """The RayJob that the CronJob of an environment creates."""
    manifests = rendered(KUBERAY / "overlays" / environment)
    pod = only(manifests, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    container = next(c for c in pod["containers"] if c["name"] == "tonight")
    place = next(m for m in container["volumeMounts"] if m["mountPath"].startswith("/etc/"))
    mount(manifests, next(v for v in pod["volumes"] if v["name"] == place["name"]), folder)
    command, flag, path = container["args"]
    assert (command, flag) == ("create", "--kustomize")
    (job,) = rendered(folder / Path(path).relative_to(place["mountPath"]))
    return job


def pods(manifest: Manifest) -> Iterator[Manifest]:
    """Every pod's spec in a manifest."""
    stack: list[Any] = [manifest]
    while stack:
        match stack.pop():
            case {"containers": _} as spec:
                yield spec
            case dict() as some:
                stack += some.values()
            case list() as some:
                stack += some


def containers(pod: Manifest) -> list[Manifest]:
    """All of a pod's."""
    return [*pod.get("initContainers", ()), *pod["containers"]]
