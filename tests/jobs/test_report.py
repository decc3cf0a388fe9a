"""`captionmill report`: what the page holds, and that it does what it should in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from jobs.cli import main
from pipeline.quality import caption_text
from pipeline.types import Code
from tests import browser, tables
from tests.output import JOB, captioned, write_input

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    '"><svg onload=document.title="owned">',
    "{{ 7 * 7 }} {% raw %} ${7*7} <!--",
    "\u202egnp.exe\u202c \u2066abc\u200b\u200d\x1b[31m",
    "שלום עולם مرحبا بالعالم",
    "long " * 5_000,
    "x" * 20_000,
    "",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Input, checkpoint and output of sixteen assets, two of which failed."""
    made = tmp_path_factory.mktemp("published")
    write_input(made)
    (made / "job.toml").write_text(JOB.format(folder=made))
    captioned(JOB.format(folder=made))
    return made


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    """Its report, with pictures."""
    target = folder / "report.html"
    assert invoked(str(folder / "out"), "-o", str(target), "--job", str(folder / "job.toml")).exit_code == 0
    return target


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a table whose captions, keys and messages want to be more than text."""
    made = tmp_path_factory.mktemp("hostile")
    rows = [tables.caption(text, i, key=f"{i}{text[:80]}") for i, text in enumerate(HOSTILE)]
    failed = [tables.failure(Code.CORRUPT, 99, key=HOSTILE[0], error_message=HOSTILE[1])]
    output = tables.publish(made / "out", rows, failed)
    assert invoked(output, "-o", str(made / "report.html")).exit_code == 0
    return made / "report.html"


def invoked(*arguments: str) -> Result:
    """The command in this process."""
    return CliRunner().invoke(main, ["report", *arguments], prog_name="captionmill")


def test_the_page_asks_nobody_for_anything(page: Path) -> None:
    text = page.read_text()
    addresses = re.findall(r'\s(?:src|href|srcset|action)="([^"]*)"', text)

    assert "default-src 'none'" in text
    assert len(addresses) > 16
    assert [a for a in addresses if not a.startswith(("#", "data:image/webp;base64,"))] == []


def test_every_asset_of_a_small_table_is_shown_with_its_picture(page: Path) -> None:
    text = page.read_text()

    assert text.count('class="card ') == 16
    assert text.count("<img ") == 14 + 2  # two of the assets are two pictures; two are none


def test_without_an_input_the_page_says_how_to_get_pictures(folder: Path, tmp_path: Path) -> None:
    done = invoked(str(folder / "out"), "-o", str(tmp_path / "r.html"))

    assert "--job" in done.stderr
    assert "<img " not in (tmp_path / "r.html").read_text()


def test_pictures_of_a_shard_that_changed_are_not_shown(folder: Path, tmp_path: Path) -> None:
    write_input_again = tmp_path / "in"
    write_input_again.mkdir()
    for tar in folder.glob("*.tar"):
        (write_input_again / tar.name).write_bytes(tar.read_bytes()[::-1])
    invoked(str(folder / "out"), "-o", str(tmp_path / "r.html"), "--input", f"{write_input_again}/*.tar")
    text = (tmp_path / "r.html").read_text()

    assert "<img " not in text
    assert "its shard changed since it was captioned" in text


def test_a_long_gallery_begins_with_its_first_cards_alone(tmp_path: Path) -> None:
    output = tables.publish(tmp_path / "out", [tables.caption(f"number {i}", i) for i in range(60)])
    invoked(output, "-o", str(tmp_path / "r.html"))
    cards = re.findall(r'<li class="card [^>]*>', (tmp_path / "r.html").read_text())

    assert [card.endswith(" hidden>") for card in cards] == [False] * 24 + [True] * 36


def test_a_seed_decides_which_assets_are_shown(tmp_path: Path) -> None:
    output = tables.publish(tmp_path / "out", [tables.caption(f"number {i}", i) for i in range(300)])
    pages = []
    for seed in ("1", "1", "2"):
        invoked(output, "-o", str(tmp_path / "r.html"), "--show", "20", "--seed", seed)
        pages.append((tmp_path / "r.html").read_text().replace(f"(seed {seed})", ""))

    assert pages[0] == pages[1] != pages[2]


def test_what_the_run_cost_is_said_where_a_price_is_given(tmp_path: Path) -> None:
    output = tables.publish(
        tmp_path / "out", [tables.caption("a", i) for i in range(0, 256 * 3601, 256 * 3600)]
    )
    invoked(output, "-o", str(tmp_path / "r.html"), "--gpu-hour-price", "2.5", "--gpus", "4")

    assert "10.00 = 1.000 h × 4 × 2.5 an hour" in (tmp_path / "r.html").read_text()


def test_nothing_published_is_a_usage_error(tmp_path: Path) -> None:
    done = invoked(str(tmp_path), "-o", str(tmp_path / "r.html"))

    assert done.exit_code == 2
    assert "nothing is published" in done.stderr


def test_a_damaged_table_is_said_to_be_one(tmp_path: Path) -> None:
    output = tables.publish(tmp_path / "out", [tables.caption("a cat")])
    (file,) = (tmp_path / "out" / "captions").rglob("*.parquet")
    file.write_bytes(file.read_bytes()[:-100])
    done = invoked(output, "-o", str(tmp_path / "r.html"))

    assert done.exit_code == 1
    assert "captionmill verify" in done.stderr


@browser.needed
def test_captions_are_text_and_nothing_else(hostile: Path) -> None:
    seen = browser.look(
        hostile,
        """return { title: document.title, scripts: document.scripts.length, images: document.images.length,
          said: [...document.querySelectorAll(".caption")].map((p) => p.firstChild.textContent.trim()) };""",
    )

    expected = {caption_text(text)[:1500].strip() or "(empty)" for text in HOSTILE}
    assert seen["title"] == "made · captions"
    assert (seen["scripts"], seen["images"]) == (3, 0)  # its own two, and this test's
    assert expected | {caption_text(HOSTILE[1])} == {text.removesuffix("…").strip() for text in seen["said"]}


@browser.needed
def test_nothing_is_wider_than_a_phone(hostile: Path, page: Path) -> None:
    for each in (hostile, page):
        wide = browser.look(each, "return [document.documentElement.scrollWidth, innerWidth]", browser.PHONE)
        assert wide[0] <= wide[1]


@browser.needed
@pytest.mark.parametrize(
    ("size", "dark"),
    [(browser.DESKTOP, False), (browser.DESKTOP, True), (browser.PHONE, False)],
    ids=["desktop", "dark", "phone"],
)
def test_axe_finds_nothing_serious(page: Path, size: tuple[int, int], dark: bool) -> None:
    assert browser.serious(page, size, dark=dark) == []


@browser.needed
def test_axe_finds_what_is_wrong(page: Path, tmp_path: Path) -> None:
    worse = page.read_text().replace('<span class="unseen">Search captions, keys and ids</span>', "", 1)
    (tmp_path / "worse.html").write_text(worse.replace('placeholder="Search captions, keys, ids"', "", 1))

    assert [said.partition(" ")[0] for said in browser.serious(tmp_path / "worse.html")] == ["label"]


@browser.needed
def test_the_gallery_is_searched_and_filtered(page: Path) -> None:
    seen = browser.look(
        page,
        """const shown = () => [...document.querySelectorAll(".card")].filter((c) => !c.hidden).length;
          const type = (words) => { search.value = words; search.dispatchEvent(new Event("input")); return shown(); };
          const pick = (tag, value) => { const s = document.querySelector(`select[data-tag=${tag}]`);
            s.value = value; s.dispatchEvent(new Event("change")); return shown(); };
          const search = document.getElementById("search");
          const found = { all: shown(), key: type("003"), none: type("no such words") };
          type("");
          return { ...found, pairs: pick("media", "images"), both: pick("code", "unidentified"),
            failed: pick("media", "") };""",
    )

    assert seen == {"all": 16, "key": 2, "none": 0, "pairs": 2, "both": 0, "failed": 2}


@browser.needed
def test_the_page_is_used_by_keys_alone(page: Path) -> None:
    seen = browser.look(
        page,
        """const at = () => document.activeElement.dataset.id || document.activeElement.id;
          const cards = [...document.querySelectorAll(".card")];
          key("/"); const search = at(); document.activeElement.value = "00"; key("Escape");
          const cleared = document.getElementById("search").value;
          key("ArrowRight"); const first = cards.indexOf(document.activeElement);
          key("ArrowRight"); key("ArrowRight"); const third = cards.indexOf(document.activeElement);
          key("End"); const last = cards.indexOf(document.activeElement);
          key("Home"); key("Enter");
          await new Promise((done) => setTimeout(done, 50));
          const told = cards[0].querySelector("dl").textContent;
          key("Escape"); const closed = !cards[0].querySelector(".more").open;
          return { search, cleared, first, third, last, told: told.includes(cards[0].dataset.id), closed };""",
    )

    expected = {"first": 0, "third": 2, "last": 15, "told": True, "closed": True}
    assert seen == {"search": "search", "cleared": "", **expected}


@browser.needed
def test_dark_and_light_follow_the_system_until_somebody_chooses(page: Path) -> None:
    script = """const paper = () => getComputedStyle(document.body).backgroundColor;
      const before = paper(); document.getElementById("theme").click(); return [before, paper()];"""

    assert browser.look(page, script, dark=True) == browser.look(page, script)[::-1]


@browser.needed
@pytest.mark.parametrize("rows", [0, 1])
def test_tables_of_no_row_and_of_one_are_pages_too(rows: int, tmp_path: Path) -> None:
    output = tables.publish(tmp_path / "out", [tables.caption("a cat", i) for i in range(rows)])
    invoked(output, "-o", str(tmp_path / "r.html"))

    assert browser.serious(tmp_path / "r.html") == []
    assert (tmp_path / "r.html").read_text().count('class="card ') == rows


@browser.needed
def test_of_a_hundred_thousand_rows_two_thousand_are_shown(tmp_path: Path) -> None:
    rows = tables.many(100_000)
    output = tables.publish(tmp_path / "out", rows)
    invoked(output, "-o", str(tmp_path / "r.html"), "--show", "2000")
    script = """const shown = () => [...document.querySelectorAll(".card")].filter((c) => !c.hidden).length;
      const first = shown(); document.getElementById("all").click(); return [first, shown()];"""

    assert browser.look(tmp_path / "r.html", script) == [24, 2000]
