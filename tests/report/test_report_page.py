"""The report's page in a real browser: it opens without an error, the slider changes the picture, tables sort."""
from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from browser import HOW, Browser, find_browser
from command_line import run
from run_folders import write_run

from bdsa.commands import report as report_command

pytestmark = pytest.mark.skipif(find_browser() is None, reason=HOW)


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """A report of one run, and one of a small sweep with a stopped run."""
    folder = tmp_path_factory.mktemp("page")
    write_run(folder / "one" / "a", masks=True)
    sweep = folder / "sweep"
    for seed in (0, 1):
        write_run(sweep / f"multi-{seed}", masks=True, latency=4.0, **{"trainer.seed": seed})
        write_run(sweep / f"l1-{seed}", masks=True, latency=4.0, gain=0.5, **{"trainer.seed": seed,
                                                                             "awareness.metric": "l1"})
    for budget in (0.3, 0.5, 1.0):
        write_run(sweep / f"single-{budget}", (budget,), gain=1.0, masks=budget < 1, latency=4.0)
    write_run(sweep / "<b>stopped", finished=False, **{"recipe.lr": 1.0})
    made = {}
    patch = pytest.MonkeyPatch()
    patch.setattr(report_command, "write_plots", lambda tables, folder: [])  # they take longest
    for name in ("one", "sweep"):
        outcome = run(report_command.main, [str(folder / name), f"out={folder / 'report' / name}"])
        assert outcome.code == 0, outcome.err
        made[name] = folder / "report" / name / "report.html"
    patch.undo()
    return made


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    browser = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture
def browser(started):
    """A window of a desk; afterwards there must be neither errors nor requests."""
    started.errors.clear()
    started.requests.clear()
    started.size(1200, 900)
    started.send("Emulation.setEmulatedMedia", features=[])
    yield started
    started.js("1")  # events that are on their way
    assert started.errors == [] and started.requests == []


def changed(one: np.ndarray, other: np.ndarray) -> float:
    """Mean difference of two pictures of one size, 0..255."""
    return float(np.abs(one.astype(float) - other).mean())


def column(browser: Browser, number: int) -> list[str]:
    return browser.js(f"[...document.querySelectorAll('table.sortable')[1].tBodies[0].rows]"
                      f".map(r => r.cells[{number}].textContent)")


@pytest.mark.parametrize("name", ["one", "sweep"])
def test_the_slider_changes_the_picture(browser, pages, name):
    browser.open(pages[name])
    assert browser.js("document.querySelectorAll('#tiles figure').length") == 4
    said = "document.getElementById('budget-said').textContent"
    first = browser.picture("#tiles")
    low = browser.js(said)
    browser.js("document.getElementById('budget').focus()")
    browser.key("ArrowRight")
    assert float(browser.js(said)) > float(low)
    assert browser.js("document.getElementById('budget').ariaValueText") == f"budget {browser.js(said)}"
    second = browser.picture("#tiles")
    assert changed(first, second) > 2
    for _ in range(5):
        browser.key("ArrowRight")
    assert "dense" in browser.js(said) and changed(second, browser.picture("#tiles")) > 2
    for _ in range(8):
        browser.key("ArrowLeft")
    assert browser.js(said) == low and changed(first, browser.picture("#tiles")) < 0.5


def test_a_table_sorts_by_number_and_back_with_mouse_and_keyboard(browser, pages):
    browser.open(pages["sweep"])
    table = "document.querySelectorAll('table.sortable')[1]"
    heads = browser.js(f"Array.from({table}.tHead.rows[0].cells, head => head.textContent)")
    at = heads.index("top-1 %")
    button = f"section[data-table='0'] > h3 ~ .scroll th:nth-child({at + 1}) button"
    before = column(browser, at)
    browser.click(button)
    numbers = [float(t.split()[0]) for t in column(browser, at) if t[0].isdigit()]
    assert numbers == sorted(numbers) and len(numbers) > 5 and column(browser, at) != before
    assert not column(browser, at)[-1][0].isdigit()  # missing ones stand last
    browser.js(f"document.querySelector({json.dumps(button)}).focus()")
    browser.key("Enter")
    assert [float(t.split()[0]) for t in column(browser, at) if t[0].isdigit()] == numbers[::-1]
    assert not column(browser, at)[-1][0].isdigit()
    assert browser.js("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "descending"


def test_points_say_what_they_are_to_the_mouse_and_to_the_keyboard(browser, pages):
    browser.open(pages["sweep"])
    tip = "(t => t.hidden ? null : t.textContent)(document.querySelector('.chart .tip'))"
    assert browser.js(tip) is None
    browser.hover(".chart .point:last-of-type")
    assert re.search(r"budget [\d.]+: [\d.]+ %", browser.js(tip)) and "MACs" in browser.js(tip)
    browser.js("document.querySelector('.chart .point[tabindex=\"0\"]').focus()")
    told = browser.js(tip)
    browser.key("ArrowRight")
    assert browser.js(tip) not in (None, told)
    browser.click("input[value=latency]")
    assert "latency, ms" in browser.js("document.querySelector('.chart').textContent")


def test_ticks_share_a_unit_and_bars_stay_in_the_chart(browser, pages):
    browser.open(pages["sweep"])
    texts = browser.js("[...document.querySelectorAll('.chart text.x')].map(t => t.textContent)")
    assert len(texts) > 3 and {text.partition(" ")[2] for text in texts if text != "0"} == {"M"}
    inside = ("(svg => [...svg.querySelectorAll('.bar')].map(bar => [bar.getBBox(), svg.viewBox.baseVal]).map("
              "([b, v]) => b.y >= 0 && b.y + b.height <= v.height - 44))(document.querySelector('.chart svg'))")
    found = browser.js(inside)
    assert len(found) > 5 and all(found)


def test_a_run_shows_its_config_and_command_when_it_is_opened(browser, pages):
    browser.open(pages["sweep"])
    assert browser.js("document.querySelectorAll('.command').length") == 0  # nothing is built before it is asked for
    browser.js("document.getElementById('filter').focus()")
    browser.write("l1 seed=1")
    assert browser.js("document.getElementById('shown').textContent") == "1 of 8 runs"
    browser.click("details:not([hidden]) summary")
    browser.wait("document.querySelector('details[open] .command') !== null")
    assert "bdsa-train 'budgets.targets=[0.3,0.5,0.7]'" in browser.js("document.querySelector('.command').textContent")
    text = browser.js("document.querySelector('details[open]').textContent")
    assert "awareness.metric=l1" in text and "recipe.epochs=3" in text
    assert browser.js("document.querySelectorAll('details[open] svg[role=group]').length") == 3


def test_on_a_phone_nothing_runs_out_of_the_page_and_the_dark_is_dark(browser, pages):
    browser.size(375, 700, mobile=True)
    browser.open(pages["sweep"])
    assert browser.js("document.documentElement.scrollWidth") <= 375
    paper = "getComputedStyle(document.body).backgroundColor"
    assert browser.js(paper) == "rgb(255, 255, 255)"
    light = browser.js("getComputedStyle(document.querySelector('.chart polyline')).stroke")
    browser.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert sum(map(int, re.findall(r"\d+", browser.js(paper)))) < 120
    assert browser.js("getComputedStyle(document.querySelector('.chart polyline')).stroke") != light


def test_everything_that_can_be_used_has_a_name(browser, pages):
    browser.open(pages["sweep"])
    tree = browser.send("Accessibility.getFullAXTree")["nodes"]
    used = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in tree if not n["ignored"]]
    kinds = {"button", "slider", "combobox", "searchbox", "radio", "table", "image", "img"}
    assert {kind for kind, _ in used} >= kinds - {"image", "img"}
    assert [kind for kind, name in used if kind in kinds and not name.strip()] == []
    assert browser.js("document.querySelectorAll('h1').length") == 1
    assert "<b>stopped" in browser.js("document.getElementById('missing').textContent")  # text, not markup
