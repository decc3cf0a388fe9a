"""A store on a bad day changes nothing in the published table, leaves nothing behind, and is not asked for ever."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import publish, storage
from pipeline.shards import list_shards
from pipeline.store_errors import MissingError
from tests import made
from tests.conftest import Store
from tests.faults.inline import Inline
from tests.faults.proxy import KINDS, Fault, Proxy, Schedule, nothing
from tests.faults.storage import BEHIND, FOR_GOOD, TRIALS, Result, Row, behind, compare, results
from tests.pipeline.test_publish import Run

CEPH_KINDS = (
    "mixed",
    "lost_put",
    "list_misses",
    "503 for good",
)  # twice each; all kinds: `tests.faults.storage`


@pytest.fixture(scope="module")
def proxy() -> Iterator[Proxy]:
    """A proxy on a good day."""
    with Proxy().serving() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def inline() -> Iterator[Inline]:
    """Runs without Ray."""
    with Inline() as inline:
        yield inline


def checked(
    stores: dict[str, Store],
    proxy: Proxy,
    inline: Inline,
    folder: Path,
    kinds: tuple[str, ...],
    jobs: int,
) -> dict[str, list[Result]]:
    """The results of some jobs, by kind."""
    found: dict[str, list[Result]] = {}
    with behind(proxy, stores, made.checkpoint(folder / "checkpoint"), inline.run) as places:
        for result in results(places, kinds, 0, jobs):
            found.setdefault(result.kind, []).append(result)
    return found


@pytest.fixture(scope="module")
def on_moto(
    moto_store: Store, proxy: Proxy, inline: Inline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Result]]:
    """A job under each kind of fault, on a store that keeps, does not know or ignores conditions, in turn."""
    return checked({"moto": moto_store}, proxy, inline, tmp_path_factory.mktemp("moto"), TRIALS, len(TRIALS))


@pytest.fixture(scope="module")
def on_ceph(
    ceph_store: Store, proxy: Proxy, inline: Inline, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[Result]]:
    """Jobs under some kinds of fault, with conditional writes and without."""
    if not ceph_store.environment:
        pytest.skip("the proxy does not stand in front of a store of your own")
    folder = tmp_path_factory.mktemp("ceph-faults")
    return checked({"ceph": ceph_store}, proxy, inline, folder, CEPH_KINDS, 2 * len(CEPH_KINDS))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*KINDS, "mixed"])
def test_a_fault_that_passes_changes_nothing(on_moto: dict[str, list[Result]], kind: str) -> None:
    for result in on_moto[kind]:
        assert result.injected > 0
        assert result.good, result


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOR_GOOD)
def test_a_store_that_stays_down_ends_the_run_which_then_goes_on(
    on_moto: dict[str, list[Result]], kind: str
) -> None:
    (result,) = on_moto[kind]
    assert result.good, result
    assert "start the same command again: what is finished is kept" in result.said[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FOR_GOOD)
def test_a_store_that_stays_down_is_not_asked_for_ever(on_moto: dict[str, list[Result]], kind: str) -> None:
    (result,) = on_moto[kind]
    readers_at_once, tries = 8, 20
    assert result.injected <= readers_at_once * tries


@pytest.mark.s3
@pytest.mark.slow
@pytest.mark.parametrize("kind", CEPH_KINDS)
def test_faults_in_front_of_a_real_store_change_nothing(on_ceph: dict[str, list[Result]], kind: str) -> None:
    for result in on_ceph[kind]:
        assert result.good, result
    assert {result.conditions for result in on_ceph[kind]} == {"kept", "unknown"}


@pytest.fixture
def uri(moto_store: Store, proxy: Proxy) -> Iterator[str]:
    """A new folder behind the proxy."""
    environment = {**moto_store.environment, "AWS_ENDPOINT_URL": proxy.url}
    proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"])
    with Store(environment, moto_store.root).entered() as uri:
        yield uri
    proxy.schedule(nothing)


def once(kind: str, method: str) -> Fault:
    """The first request with this method for each key fails."""
    return lambda call: kind if call.method == method and call.nth == 0 else ""


@pytest.mark.parametrize("kind", ["cut_off", "shortened", "reset_in_body"])
def test_a_body_that_was_cut_is_read_again(uri: str, proxy: Proxy, kind: str) -> None:
    storage.put(f"{uri}/a", bytes(range(256)))
    proxy.schedule(once(kind, "GET"))

    assert storage.read(f"{uri}/a") == bytes(range(256))
    assert storage.read_range(f"{uri}/a", 10, 90) == bytes(range(10, 90))
    assert list(storage.read_many([(f"{uri}/a", 256)])) == [bytes(range(256))]
    assert proxy.injected[kind] == 2


def test_an_object_of_another_size_than_was_expected_is_read_as_it_is(uri: str) -> None:
    """Whether it was cut, the store knows; that it is another object, the reader says."""
    storage.put(f"{uri}/a", b"changed")
    assert storage.read(f"{uri}/a", 99) == b"changed"


def test_a_stored_object_whose_answer_was_lost_is_what_was_written(uri: str, proxy: Proxy) -> None:
    proxy.schedule(once("lost_put", "PUT"))
    assert not storage.put_new(f"{uri}/a", b"mine")
    assert storage.read(f"{uri}/a") == b"mine"


def test_the_first_attempt_stands_where_the_second_loses_its_answer(uri: str, proxy: Proxy) -> None:
    storage.put_new(f"{uri}/a", b"first")
    proxy.schedule(once("lost_put", "PUT"))
    assert not storage.put_new(f"{uri}/a", b"second")
    assert storage.read(f"{uri}/a") == b"first"


def test_a_check_whose_answers_are_lost_leaves_nothing(uri: str, proxy: Proxy) -> None:
    proxy.schedule(once("lost_put", "PUT"))
    storage.check_writable(uri)
    assert storage.listing(uri) == []


def test_a_part_that_the_listing_lacks_is_there(uri: str, proxy: Proxy) -> None:
    run = Run(uri)
    proxy.schedule(BEHIND)
    assert len(storage.listing(f"{uri}/runs/run0/units")) < len(run.plan.units)
    assert publish.missing(uri, run.plan) == []


def test_a_part_that_is_not_there_is_missing(uri: str) -> None:
    run = Run(uri)
    gone = run.plan.units[1].unit_id
    storage.delete(f"{uri}/runs/run0/units/{gone}.parquet")
    assert publish.missing(uri, run.plan) == [gone]


def test_parts_that_the_listing_lacks_are_removed_with_the_others(uri: str, proxy: Proxy) -> None:
    run = Run(uri)
    proxy.schedule(BEHIND)
    run.publish()
    proxy.schedule(nothing)
    assert storage.listing(f"{uri}/runs/run0/units") == []


def test_a_part_that_was_removed_and_is_still_listed_is_not_taken_for_done(uri: str, proxy: Proxy) -> None:
    """The run ends, and nothing is published; when the listing is right, the unit is captioned again."""
    run = Run(uri)
    storage.listing(f"{uri}/runs/run0/units")  # the proxy takes note
    gone = run.plan.units[1].unit_id
    storage.delete(f"{uri}/runs/run0/units/{gone}.parquet")
    proxy.schedule(Schedule(["list_shows_removed"], 1.0, 0))

    assert publish.missing(uri, run.plan) == []
    with pytest.raises(MissingError, match=gone):
        run.publish()
    assert publish.snapshot(uri) is None


def published(uri: str) -> pa.Table:
    """The captions, every column, after a look at the digests of all files."""
    told = json.loads(storage.read(f"{uri}/snapshot.json"))
    files = [*told["captions"]["files"], *told["failures"]["files"], told["removed"]]
    data = {file["path"]: storage.read(f"{uri}/{file['path']}") for file in files}
    assert [hashlib.sha256(data[file["path"]]).hexdigest() for file in files] == [f["sha256"] for f in files]
    captions = [pq.read_table(io.BytesIO(data[file["path"]])) for file in told["captions"]["files"]]
    return pa.concat_tables(captions)


def overwrite(uri: str) -> None:
    """Replace the parts by those of a second attempt, which looked before they were there."""
    Run(f"{uri}-again")
    for entry in storage.listing(f"{uri}-again/runs/run0/units"):
        storage.put(f"{uri}/runs/run0/units/{entry.name}", storage.read(entry.uri))


def test_a_part_that_is_there_stays_on_a_store_that_ignores_conditions(
    uri: str, proxy: Proxy, moto_store: Store
) -> None:
    proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"], "ignored")
    Run(uri)
    parts = [storage.read(entry.uri) for entry in storage.listing(f"{uri}/runs/run0/units")]
    Run(uri)

    assert [storage.read(entry.uri) for entry in storage.listing(f"{uri}/runs/run0/units")] == parts


def test_parts_that_are_overwritten_after_they_were_compacted_change_nothing(
    uri: str, proxy: Proxy, moto_store: Store
) -> None:
    """On a store that ignores conditions the second attempt's part replaces the first's."""
    proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"], "ignored")
    run = Run(uri)
    parts = [storage.read(entry.uri) for entry in storage.listing(f"{uri}/runs/run0/units")]
    done = run.compact()
    overwrite(uri)
    assert all(storage.read(e.uri) not in parts for e in storage.listing(f"{uri}/runs/run0/units"))

    publish.publish(uri, run.plan, done, {})
    before = published(uri)
    publish.publish(uri, run.plan, done, {})

    assert published(uri).equals(before)
    assert len(before) == sum(d.told["captions"]["rows"] for d in done)


def test_parts_that_are_overwritten_while_they_are_compacted_differ_in_times_alone(
    uri: str, proxy: Proxy, moto_store: Store
) -> None:
    """Half of the files were made of the first attempt's parts, half of the second's."""
    before = Run(f"{uri}/undisturbed")
    before.publish()
    proxy.forward_to(moto_store.environment["AWS_ENDPOINT_URL"], "ignored")
    run = Run(uri)
    first, *_ = run.compact()
    overwrite(uri)
    again = Run(uri)
    again.partitions = again.partitions[1:]

    publish.publish(uri, run.plan, [first, *again.compact()], {})

    wanted = published(f"{uri}/undisturbed").drop_columns("created_at")
    assert published(uri).drop_columns("created_at").equals(wanted)


def test_shards_that_the_listing_lacks_are_found_by_name(uri: str, proxy: Proxy) -> None:
    for number in range(6):
        storage.put(f"{uri}/{number}.tar", b"")
    proxy.schedule(BEHIND)
    assert len(list_shards([f"{uri}/{{0..5}}.tar"])) == 6


def test_compare_counts_lost_doubled_and_wrong_rows() -> None:
    wanted = [{"asset_id": str(i), "prompt_id": None, "caption": "right"} for i in range(4)]
    found: list[Row] = [wanted[0], wanted[0], wanted[1], {**wanted[2], "caption": "wrong"}]
    assert compare(found, wanted) == (1, 1, 1)
