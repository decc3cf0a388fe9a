"""What travels to the cluster: the job file as the command line left it, perhaps captionmill itself, and no secrets."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

from jobs.preflight import PLACEHOLDERS
from pipeline import config, prompt, storage
from pipeline.config import Job, is_hub_id
from pipeline.errors import ConfigError
from pipeline.toml import dumps

JOB_FILE = "job.toml"
ROOT = Path(__file__).parents[2]
ROOMS = ("pipeline", "actors", "jobs")
UNWANTED = shutil.ignore_patterns("__pycache__")
SECRETS = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "RAY_AUTH_TOKEN",
)
SECRET = 16  # characters; keys and tokens have 32 or more, and what stands in for one in a test is a word
# User information, or a query that signs. A bare ? is a wildcard.
SIGNED = re.compile(
    r"://[^/]*@|[?&][\w.-]*(signature|token|credential|secret|sig|key)[\w.-]*=", re.IGNORECASE
)
# Ray kills a job that it stops after 3 s. A driver needs 1 to 4 s to let its actors go and to say how to go on.
STOP_S = 30


@dataclass(frozen=True, slots=True)
class Packed:
    """A job whose file has no mistakes: its text, and what names the output and the work."""

    job: Job
    text: str
    command: tuple[str, ...]  # of captionmill, with the file
    with_code: bool

    @property
    def family(self) -> str:
        """The same for all jobs that write to this output, but for the shares of one that is split."""
        at = self.command.index("--shards") if "--shards" in self.command else len(self.command)
        return _digest(storage.absolute(self.job.output.uri), *self.command[at : at + 2])

    @property
    def digest(self) -> str:
        """Another one where anything is asked otherwise."""
        return _digest(self.text, *self.command)

    @property
    def entrypoint(self) -> str:
        """The command line, for the shell of a node."""
        return shlex.join(
            [*(("python", "-m", "jobs") if self.with_code else ("captionmill",)), *self.command]
        )

    def write(self, folder: Path) -> None:
        """Put into an empty folder what the job's processes shall find where they start."""
        (folder / JOB_FILE).write_text(self.text, encoding="utf-8")
        if self.with_code:
            for room in ROOMS:
                shutil.copytree(ROOT / room, folder / room, ignore=UNWANTED)
            _write_metadata(folder)

    def runtime_env(self, folder: Path) -> dict[str, Any]:
        """Ray's runtime environment. Whoever sees the dashboard can read it."""
        return {"working_dir": str(folder), "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_S)}}


def pack(text: str, changes: Sequence[str], command: Sequence[str], *, with_code: bool = False) -> Packed:
    """Check what can be checked here. ConfigError names every mistake; what the addresses lead to, the cluster sees.

    `command` goes before the job file, its options after it.
    """
    raw, problems = config.resolved(text, changes)
    if raw is None:
        raise ConfigError(problems)
    loaded = config.load(raw)
    problems += [*loaded.problems, *prompt.problems(loaded.prompts, PLACEHOLDERS)]
    written = dumps(raw)
    addresses = [*_addresses(loaded.sections)]
    problems += [*_elsewhere(addresses), *_secrets(addresses, written, os.environ)]
    if problems:
        raise ConfigError(problems)
    first, *options = command
    return Packed(loaded.job(), written, (first, JOB_FILE, *options), with_code)


def _addresses(sections: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Keys that name places, with each place, of the sections that have no mistakes."""
    source, sink, model = map(sections.get, ("input", "output", "model"))
    if source:
        yield from (("[input] uris", uri) for uri in source.uris)
        yield from (("[input] root", uri) for uri in (source.root,) if uri)
    if sink:
        yield "[output] uri", sink.uri
    if model and model.path != "demo" and not is_hub_id(model):
        yield "[model] path", model.path


def _elsewhere(addresses: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Relative paths: where the job runs they lie in a folder of Ray's, which goes with the job."""
    for where, path in addresses:
        if "://" not in path and not path.startswith(("/", "~")):
            here = Path(path).absolute()
            yield (
                f"{where}: {path} is a path of this machine, and the job runs on the cluster; give a bucket (s3://…), "
                f"or {here} if every machine of the cluster has that folder"
            )


def _secrets(
    addresses: Iterable[tuple[str, str]], written: str, environment: Mapping[str, str]
) -> Iterator[str]:
    """Addresses that carry credentials, and this environment's credentials in the text. They are not quoted."""
    for where, uri in addresses:
        if SIGNED.search(uri):
            yield (
                f"{where}: {storage.redact(uri)} was given with credentials, which all who see the cluster's dashboard "
                "could read; leave them out and give the nodes a role, a profile or mounted secrets"
            )
    for name in SECRETS:
        value = environment.get(name, "")
        if len(value) >= SECRET and value in written:
            yield f"the job has the value of {name} in it; leave it out: job files are no place for credentials"


def _write_metadata(folder: Path) -> None:
    """What says the version, which is in the recipe. Not where the package was installed from."""
    ours = distribution("captionmill")
    place = folder / f"captionmill-{ours.version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: captionmill\nVersion: {ours.version}\n")


def _digest(*parts: str) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=6).hexdigest()
