"""The steps of infra/Dockerfile, run without a container engine, to know that they work where there is none.

    python -m tests.image FOLDER [--bring PATH]... [--keep]      as root, some 6 GB and ten minutes

Each stage is a folder that its steps run in by chroot, in a mount namespace that goes with them; the base image is what
debootstrap makes of the release that its tag names. The context has what .dockerignore lets through. At the end the
demo is captioned in the last stage, as the image's user. `--bring` shows the steps a path of this machine as well, to
read: a certificate, pip's settings, a mirror's files. What pip and TLS are told by the environment, they are told too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from docker.utils.build import exclude_paths
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "infra" / "Dockerfile"
IGNORED = ROOT / "infra" / "Dockerfile.dockerignore"
TOLD = re.compile(r"PIP_\w+|SSL_\w+|\w+_CA_BUNDLE|https?_proxy|no_proxy", re.IGNORECASE)
RELEASE = re.compile(r"debian:(\w+)-\d{8}-slim@sha256:[0-9a-f]{64}")
IN = """set -e
root=$1; user=$2; command=$3; shift 3
mkdir -p "$root/dev/shm"
mount -t proc proc "$root/proc"; mount -t tmpfs tmpfs "$root/dev/shm"
for path in "$@"; do
    if [ -d "$path" ]; then mkdir -p "$root$path"; else mkdir -p "$(dirname "$root$path")"; touch "$root$path"; fi
    mount --bind "$path" "$root$path"; mount -o remount,bind,ro "$root$path"
done
exec chroot --userspec="$user" "$root" /bin/sh -c "$command"
"""


@dataclass(frozen=True, slots=True)
class Step:
    """An instruction and its value, as the parser has them."""

    instruction: str
    value: str


@dataclass(frozen=True, slots=True)
class Stage:
    """Where the steps of a stage have come to: its folder, its working folder, its user, its environment."""

    root: Path
    workdir: str = "/"
    user: str = "0:0"
    environment: Mapping[str, str] = field(default_factory=dict)

    def run(self, command: str, bring: Sequence[str] = ()) -> None:
        """A shell command in the stage. CalledProcessError where it fails."""
        told = {name: value for name, value in os.environ.items() if TOLD.fullmatch(name)}
        known = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", **told, **self.environment}
        inside = f"cd {shlex.quote(self.workdir)} && {command}"
        unshared = ["unshare", "--mount", "--pid", "--fork", "sh", "-c", IN, "in"]
        subprocess.run([*unshared, str(self.root), self.user, inside, *bring], env=known, check=True)


def steps() -> list[Step]:
    """The instructions of the Dockerfile, comments left out."""
    parsed = DockerfileParser(fileobj=open(DOCKERFILE, "rb")).structure  # noqa: SIM115
    return [Step(s["instruction"], s["value"]) for s in parsed if s["instruction"] != "COMMENT"]


def context() -> set[str]:
    """The files that an engine would be sent, by their path from the root: git's, less what is ignored."""
    lines = [line for line in IGNORED.read_text().splitlines() if line and not line.startswith("#")]
    return {path for path in exclude_paths(str(ROOT), lines) if (ROOT / path).is_file()}


def words(value: str) -> dict[str, str]:
    """What ENV sets."""
    return dict(word.split("=", 1) for word in shlex.split(value))


class Build:
    """Runs the steps, and says how long each took and how much it left."""

    def __init__(self, folder: Path, bring: Sequence[str]) -> None:
        self._folder, self._bring = folder, bring
        self._arguments: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._files = context()

    def run(self) -> Stage:
        """The last stage."""
        for step in steps():
            begun = time.monotonic()
            self._step(step)
            print(
                json.dumps(
                    {
                        "step": f"{step.instruction} {step.value}"[:80],
                        "seconds": round(time.monotonic() - begun, 1),
                    }
                ),
                flush=True,
            )
        return self._here

    @property
    def _here(self) -> Stage:
        return self._stages[list(self._stages)[-1]]

    def _step(self, step: Step) -> None:
        name, here = list(self._stages)[-1:], self._here if self._stages else None
        match step.instruction, here:
            case "ARG", _:
                self._arguments |= words(step.value)
            case "FROM", _:
                self._from(step.value.split())
            case "RUN", Stage():
                here.run(step.value, self._bring)
            case "COPY", Stage():
                self._copy(here, shlex.split(step.value))
            case "ENV", Stage():
                self._stages[name[0]] = replace(here, environment={**here.environment, **words(step.value)})
            case "WORKDIR", Stage():
                (here.root / step.value.lstrip("/")).mkdir(parents=True, exist_ok=True)
                self._stages[name[0]] = replace(here, workdir=step.value)
            case "USER", Stage():
                self._stages[name[0]] = replace(here, user=step.value)
            case "CMD", Stage():
                pass
            case _:
                raise ValueError(f"nobody knows how to run {step.instruction}")

    def _from(self, said: Sequence[str]) -> None:
        source = said[0].replace("${BASE}", self._arguments["BASE"])
        root = self._folder / f"stage{len(self._stages)}"
        if source in self._stages:
            parent = self._stages[source]
            _copied(parent.root, root)
            stage = replace(parent, root=root)
        else:
            _bootstrap(source, root)
            stage = Stage(root)
        self._stages[said[2] if len(said) == 3 else "last"] = stage

    def _copy(self, here: Stage, said: Sequence[str]) -> None:
        *sources, target = (word for word in said if not word.startswith("--"))
        into = here.root / str(Path(here.workdir, target)).lstrip("/")
        from_ = next((word.removeprefix("--from=") for word in said if word.startswith("--from=")), None)
        for source in sources:
            if from_:
                _copied(self._stages[from_].root / source.lstrip("/"), into)
                continue
            files = [path for path in self._files if path == source or path.startswith(f"{source}/")]
            assert files, f"the context has no {source}"
            for path in files:
                place = into / path.removeprefix(f"{source}/") if path != source else into / source
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, place)


def _copied(source: Path, target: Path) -> None:
    """A folder's content in another, beside what is there."""
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", f"{source}/.", str(target)], check=True)


def _bootstrap(image: str, root: Path) -> None:
    """A fresh root of Debian, which is what its image holds."""
    found = RELEASE.fullmatch(image)
    assert found, f"{image} is no dated image of Debian with its digest"
    subprocess.run(
        ["debootstrap", "--variant=minbase", found[1], str(root)], check=True, stdout=subprocess.DEVNULL
    )
    shutil.copy("/etc/resolv.conf", root / "etc" / "resolv.conf")


def unpinned(frozen: str) -> Iterator[str]:
    """The packages that were installed in a version which constraints.txt does not have."""
    normal = re.compile(r"[-_.]+")
    pinned = {normal.sub("-", line.lower()) for line in (ROOT / "constraints.txt").read_text().split()}
    for line in frozen.splitlines():
        if normal.sub("-", line.lower()) not in pinned and not line.startswith("captionmill"):
            yield line


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description="Run the steps of infra/Dockerfile in fresh roots.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bring", action="append", default=[], metavar="PATH")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    asked = parser.parse_args()
    try:
        last = Build(asked.folder, asked.bring).run()
        last.run("captionmill --version && id && ray --version")
        frozen = last.root / "tmp" / "frozen"
        last.run("pip freeze > /tmp/frozen")
        print(json.dumps({"not in constraints.txt": list(unpinned(frozen.read_text()))}))
        last.run("captionmill demo --scenes 5 --output /tmp/demo")
        du = ["du", "--summarize", "--block-size=1M", *(str(path) for path in sorted(asked.folder.iterdir()))]
        subprocess.run(du, check=True)
    finally:
        if not asked.keep:
            shutil.rmtree(asked.folder, ignore_errors=True)


if __name__ == "__main__":
    main()
