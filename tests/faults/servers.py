"""What `python -m tests.faults.storage` runs on where there is no pytest: the stores, the proxy, and Ray if asked."""

from __future__ import annotations

import logging
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import ray.data
from moto.server import ThreadedMotoServer
from rich.console import Console

from tests import made
from tests.conftest import INFRA, Store, run
from tests.double import caption_with_doubles
from tests.faults.impatience import be_impatient
from tests.faults.inline import Inline
from tests.faults.proxy import Proxy
from tests.faults.storage import Place, Run, behind


@contextmanager
def moto() -> Iterator[Store]:
    """A server in this process."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    store = Store({**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}, f"s3://moto-{uuid.uuid4().hex}")
    store.create()  # a bucket of its own: all such servers of a process have the same ones
    yield store
    server.stop()


@contextmanager
def ceph() -> Iterator[Store]:
    """A Ceph object gateway."""
    script = str(INFRA / "s3_server.sh")
    with tempfile.TemporaryDirectory(prefix="ceph") as folder:
        told = run([script, "start", folder], os.environ | {"OWNER": str(os.getpid())})
        told.check_returncode()
        store = Store(dict(line.split("=", 1) for line in told.stdout.splitlines()), "s3://ceph")
        store.create()
        yield store
        run([script, "stop", folder])


STORES = {"moto": moto, "ceph": ceph}


@contextmanager
def places(names: Sequence[str], on_ray: bool) -> Iterator[list[Place]]:
    """A place on each store behind one proxy, with runs in this process or on a Ray cluster of its own."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stores = {name: stack.enter_context(STORES[name]()) for name in names}
        proxy = stack.enter_context(Proxy().serving())
        inline = stack.enter_context(Inline())
        way: Run = partial(caption_with_doubles, console=Console(quiet=True)) if on_ray else inline.run
        checkpoint = made.checkpoint(folder / "checkpoint")
        found = stack.enter_context(behind(proxy, stores, checkpoint, way))
        if on_ray:
            stack.enter_context(_cluster())
        yield found


@contextmanager
def _cluster() -> Iterator[None]:
    """Ray, whose workers inherit this process's environment."""
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    ray.init(
        "local",
        num_cpus=4,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        runtime_env={"worker_process_setup_hook": be_impatient},
    )
    yield
    ray.shutdown()
