"""pipeline.commit: a unit's part is checked, then written whole."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import messages, storage, unit_records
from pipeline.columns import PART
from pipeline.commit import (
    Committer,
    Parts,
    Receipt,
    check,
    committed,
    manifest_uri,
    part_bytes,
    receipt,
    units_uri,
)
from pipeline.errors import IntegrityError, StorageError
from pipeline.types import Answer, Captioned, Problem
from tests import made

METADATA = {"captionmill.run_id": "run0", "captionmill.software.torch": "2.13.0"}
TURNS = made.PROMPTS[0].turns
Change = Callable[[Captioned], Captioned]


def committer(output: Path) -> Committer:
    """A committer of the run below `output`."""
    return Committer(str(output), made.CONTEXT, METADATA)


def parts(output: Path) -> list[str]:
    """Every file below `output`."""
    return sorted(str(p.relative_to(output)) for p in output.rglob("*") if p.is_file())


def answers(*changed: Answer) -> Change:
    """The unit with other answers."""
    return lambda unit: replace(unit, answers=changed)


def lost(unit: Captioned) -> Captioned:
    return replace(unit, answers=unit.answers[:-1])


def doubled(unit: Captioned) -> Captioned:
    return replace(unit, answers=(*unit.answers, unit.answers[0]))


def swapped(unit: Captioned) -> Captioned:
    a, b, c, d, *rest = unit.answers
    return replace(
        unit, answers=(replace(c, position=0), replace(d, position=0), replace(a, position=1), b, *rest)
    )


def two_failures(unit: Captioned) -> Captioned:
    failure = Answer(0, unit.assets[0].sha256, None, made.PROBLEM)
    return replace(unit, answers=(failure, failure, *unit.answers[2:]))


def failure_beside_captions(unit: Captioned) -> Captioned:
    return replace(unit, answers=(*unit.answers, Answer(0, unit.assets[0].sha256, None, made.PROBLEM)))


def unknown_prompt(unit: Captioned) -> Captioned:
    return replace(unit, answers=(replace(unit.answers[0], prompt_id="other"), *unit.answers[1:]))


def caption_of_no_prompt(unit: Captioned) -> Captioned:
    return replace(unit, answers=(replace(unit.answers[0], prompt_id=None), *unit.answers[2:]))


def no_asset(unit: Captioned) -> Captioned:
    return replace(unit, answers=(*unit.answers, replace(unit.answers[0], position=-1)))


def one_asset_less(unit: Captioned) -> Captioned:
    return replace(unit, assets=unit.assets[:-1], answers=unit.answers[:-2])


def view_of_other_bytes(unit: Captioned) -> Captioned:
    return replace(unit, views=(replace(unit.views[0], sha256=unit.assets[1].sha256), *unit.views[1:]))


def no_view(unit: Captioned) -> Captioned:
    return replace(unit, views=unit.views[1:])


def test_a_part_says_in_its_footer_what_its_unit_took(tmp_path: Path) -> None:
    unit = made.captioned(failed=(0,))
    committer(tmp_path).commit(unit)
    (record,) = unit_records.found(pq.read_schema(tmp_path / parts(tmp_path)[0]).metadata)

    assert record == {
        "unit_id": "000000-00000000-00004",
        "shard": "a/000000.tar",
        "first": 0,
        "count": 4,
        "visual_tokens": 120,
        "crops": 7,
        "pixel_bytes": 1000,
        "captions": 6,
        "failures": 1,
        "failures_by_code": {"corrupt": 1},
        "prompt_tokens": 240,
        "output_tokens": 18,
        **asdict(made.EFFORT),
    }


BROKEN = [
    lost,
    doubled,
    swapped,
    two_failures,
    failure_beside_captions,
    unknown_prompt,
    caption_of_no_prompt,
    no_asset,
    one_asset_less,
    view_of_other_bytes,
    no_view,
]


@pytest.mark.parametrize("breaks", BROKEN)
def test_a_broken_unit_is_refused_and_nothing_is_written(tmp_path: Path, breaks: Change) -> None:
    with pytest.raises(IntegrityError, match="000000-00000000-00004"):
        committer(tmp_path).commit(breaks(made.captioned()))

    assert parts(tmp_path) == []


def test_a_swapped_answer_is_named_with_its_asset() -> None:
    with pytest.raises(IntegrityError, match=f"{made.asset(0, 0).asset_id}.*other bytes"):
        check(swapped(made.captioned()), made.PROMPTS)


def test_a_failure_of_one_prompt_beside_a_caption_of_the_other_is_whole() -> None:
    unit = made.captioned(count=1)
    failure = Answer(0, unit.assets[0].sha256, "long", made.PROBLEM)

    check(replace(unit, answers=(unit.answers[0], failure)), made.PROMPTS)


PER_KIND = (replace(made.PROMPTS[0], turns=(), video=TURNS), replace(made.PROMPTS[1], turns=(), images=TURNS))
DUE = {0: None, 1: "long", 2: "short"}  # an image, several images, a clip


def per_kind() -> Captioned:
    """A unit in which each asset has the one answer that `PER_KIND` asks for; about the image there is none."""
    unit = made.captioned(count=3)
    kept = [a for a in unit.answers if a.prompt_id == DUE[a.position]]
    return replace(unit, answers=(Answer(0, unit.assets[0].sha256, None, made.PROBLEM), *kept))


def test_an_asset_has_an_answer_from_each_prompt_that_asks_about_its_kind() -> None:
    check(per_kind(), PER_KIND)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_asset_that_lacks_what_is_due_to_its_kind_is_lost(position: int) -> None:
    unit = per_kind()
    kept = tuple(a for a in unit.answers if a.position != position)

    with pytest.raises(IntegrityError, match=unit.assets[position].asset_id):
        check(replace(unit, answers=kept), PER_KIND)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_an_answer_to_a_prompt_that_does_not_ask_about_the_kind_is_refused(position: int) -> None:
    unit = per_kind()
    other = next(
        a for a in made.captioned(count=3).answers if a.position == position and a.prompt_id != DUE[position]
    )

    with pytest.raises(IntegrityError, match=unit.assets[position].asset_id):
        check(replace(unit, answers=(*unit.answers, other)), PER_KIND)


def test_answers_may_come_in_any_order() -> None:
    unit = made.captioned(failed=(1,))

    check(replace(unit, answers=unit.answers[::-1]), made.PROMPTS)


def test_assets_that_could_not_be_read_have_no_digest_to_compare() -> None:
    unit = made.captioned(count=1, failed=(0,))
    asset = replace(unit.assets[0], sha256="")

    check(replace(unit, assets=(asset,), answers=(Answer(0, "", None, made.PROBLEM),)), made.PROMPTS)


def test_a_unit_becomes_one_part_under_its_own_name(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned())

    assert parts(tmp_path) == ["runs/run0/units/000000-00000000-00004.parquet"]


def test_the_part_holds_a_row_per_answer(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned(failed=(1,)))

    (path,) = (tmp_path / "runs/run0/units").iterdir()
    table = pq.read_table(path)
    assert table.schema.equals(PART)
    assert table["row"].to_pylist() == ["caption"] * 2 + ["failure"] + ["caption"] * 4


def test_the_part_says_in_its_footer_what_it_is(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned())

    (path,) = (tmp_path / "runs/run0/units").iterdir()
    footer = pq.read_schema(path).metadata
    assert footer[b"captionmill.unit_id"] == b"000000-00000000-00004"
    assert footer[b"captionmill.schema_version"] == b"1"
    assert footer[b"captionmill.software.torch"] == b"2.13.0"


def test_the_first_part_of_a_unit_that_is_committed_twice_stands(tmp_path: Path) -> None:
    path = tmp_path / "runs/run0/units/000000-00000000-00004.parquet"
    committer(tmp_path).commit(made.captioned())
    first = path.read_bytes()

    committer(tmp_path).commit(made.captioned())

    assert path.read_bytes() == first
    assert len(parts(tmp_path)) == 1


def test_a_part_that_comes_when_its_run_is_published_does_not_stay(tmp_path: Path) -> None:
    storage.put(manifest_uri(str(tmp_path), "run0"), b"{}")

    committer(tmp_path).commit(made.captioned())

    assert committed(str(tmp_path), "run0") == set()


def test_two_attempts_at_a_unit_differ_in_their_time_only(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for output in (one, other):
        committer(output).commit(made.captioned())

    first, second = (pq.read_table(output / parts(output)[0]) for output in (one, other))
    assert first.drop_columns("created_at").equals(second.drop_columns("created_at"))


def test_the_first_part_stands_on_an_object_store_too(s3: str) -> None:
    uri = f"{s3}/out/runs/run0/units/000000-00000000-00004.parquet"
    commit = Committer(f"{s3}/out", made.CONTEXT, METADATA)
    commit.commit(made.captioned())
    first = storage.read(uri)

    commit.commit(made.captioned())

    assert storage.read(uri) == first


def test_the_receipt_counts_what_was_committed(tmp_path: Path) -> None:
    assert committer(tmp_path).commit(made.captioned(failed=(0, 3))) == Receipt(
        "000000-00000000-00004", assets=4, captions=4, failures={"corrupt": 2}, output_tokens=12
    )


def test_the_receipt_comes_back_from_its_row(tmp_path: Path) -> None:
    table = committer(tmp_path)(messages.captioned_to_table(made.captioned(failed=(0, 3))))

    assert receipt(table.to_pylist()[0]) == Receipt(
        "000000-00000000-00004", assets=4, captions=4, failures={"corrupt": 2}, output_tokens=12
    )


def test_a_unit_is_done_from_when_its_part_is_there(tmp_path: Path) -> None:
    parts, unit = Parts(str(tmp_path), "run0"), made.captioned()
    before = parts.done(unit.unit.unit_id)
    committer(tmp_path).commit(unit)

    assert (before, parts.done(unit.unit.unit_id)) == (False, True)
    assert not parts.done(made.captioned(1).unit.unit_id)


def test_every_unit_of_a_published_run_is_done(tmp_path: Path) -> None:
    storage.put(manifest_uri(str(tmp_path), "run0"), b"{}")

    assert Parts(str(tmp_path), "run0").done("000000-00000000-00004")
    assert not Parts(str(tmp_path), "run1").done("000000-00000000-00004")


def test_a_unit_that_was_done_has_the_receipt_of_the_part_that_lies_there(tmp_path: Path) -> None:
    unit = made.captioned(failed=(0, 3))
    written = committer(tmp_path).commit(unit)
    path = tmp_path / "runs/run0/units/000000-00000000-00004.parquet"
    before = path.read_bytes()

    row = committer(tmp_path)(messages.done_to_table(unit.unit)).to_pylist()[0]

    assert receipt(row) == written
    assert path.read_bytes() == before


def test_a_unit_is_not_done_for_being_called_so(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="000000-00000000-00004"):
        committer(tmp_path).seen(made.captioned().unit)


def test_of_a_unit_that_was_published_meanwhile_nothing_is_counted(tmp_path: Path) -> None:
    storage.put(manifest_uri(str(tmp_path), "run0"), b"{}")

    assert committer(tmp_path).seen(made.captioned().unit) == Receipt("000000-00000000-00004", 4, 0, {}, 0)


def test_a_part_that_lacks_assets_does_not_make_its_unit_done(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned(count=3))
    units = tmp_path / "runs/run0/units"
    (units / "000000-00000000-00003.parquet").rename(units / "000000-00000000-00004.parquet")

    with pytest.raises(IntegrityError, match="holds 3 assets of 4 planned; delete it"):
        committer(tmp_path).seen(made.captioned().unit)


def test_a_part_that_was_cut_short_does_not_make_its_unit_done(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned())
    path = tmp_path / "runs/run0/units/000000-00000000-00004.parquet"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(IntegrityError, match=r"no whole unit part.*delete it"):
        committer(tmp_path).seen(made.captioned().unit)


def test_no_part_means_no_committed_unit(tmp_path: Path) -> None:
    assert committed(str(tmp_path), "run0") == set()


def test_committed_units_are_those_that_have_a_part(tmp_path: Path) -> None:
    for number in range(3):
        committer(tmp_path).commit(made.captioned(number))

    assert committed(str(tmp_path), "run0") == {f"{n:06d}-00000000-00004" for n in range(3)}


def test_parts_of_another_run_do_not_count(tmp_path: Path) -> None:
    committer(tmp_path).commit(made.captioned())

    assert committed(str(tmp_path), "run1") == set()


def test_a_part_on_an_object_store_is_there_when_it_is_committed(s3: str) -> None:
    Committer(f"{s3}/out", made.CONTEXT, METADATA).commit(made.captioned())

    assert committed(f"{s3}/out", "run0") == {"000000-00000000-00004"}


def test_part_bytes_read_back_as_the_table_that_went_in() -> None:
    table = pa.Table.from_pylist(
        [{"row": "caption", "caption": "ü\0😀", "flags": [], "frame_pts_s": [0.1]}], PART
    )

    assert pq.read_table(io.BytesIO(part_bytes(table, METADATA))).equals(table)


def test_units_lie_below_their_run() -> None:
    assert units_uri("s3://b/out/", "run0") == "s3://b/out/runs/run0/units"


def test_a_problem_with_a_message_of_any_characters_is_committed(tmp_path: Path) -> None:
    unit = made.captioned(count=1, failed=(0,))
    odd = Problem(made.PROBLEM.stage, made.PROBLEM.code, "\0 \u202e ü " * 100)

    committer(tmp_path).commit(replace(unit, answers=(replace(unit.answers[0], outcome=odd),)))

    assert storage.exists(f"{tmp_path}/runs/run0/units/{unit.unit.unit_id}.parquet")
