"""Reality against dream, futures and returns in a real browser: with the mouse, with the keyboard, and what a screen reader is told."""

import pytest

SETUP = """import numpy as np
from iris_edu.envs import make_env
from iris_edu.views.futures import ManyFutures
from iris_edu.views.reenactment import RealityAgainstDream
from iris_edu.views.returns import ReturnExplorer
from iris_edu.agent import load_trained
from iris_edu.recordings import record
catch, chance = load_trained("catch-small"), np.random.default_rng(0)
fall = record(make_env(catch.config.env), lambda frame: chance.integers(3), steps=100)"""
VIEWS = {
    "against": "RealityAgainstDream(catch, fall, start=8)",
    "tree": "ManyFutures(catch, fall, start=8, samples=2, steps=5)",
    "returns": "ReturnExplorer(catch, fall)",
}


@pytest.fixture(scope="module")
def pages(lab):
    "A page for each view, opened when it is first asked for."
    opened = {}

    def page(name):
        if name not in opened:
            opened[name] = lab.cells(f"futures_{name}", SETUP, VIEWS[name])
        opened[name].bring_to_front()
        opened[name].wait_for_selector(".iris-status:not(:empty)", timeout=60_000)
        return opened[name]

    return page


def said(page, part):
    "Waits until the view says a sentence with these words."
    page.wait_for_function(
        "part => [...document.querySelectorAll('.iris-status')].some(e => e.textContent.includes(part))",
        arg=part,
        timeout=20_000,
    )


def changed(page, lab, gallery, before, index=0):
    "Waits until a picture is another one."
    for _ in range(100):
        if lab.picture(gallery, index) != before:
            return
        page.wait_for_timeout(100)
    raise AssertionError("the picture stayed as it was")


def field(page, name):
    "The control with this description."
    return (
        page.locator(".widget-inline-hbox, .widget-text, .widget-dropdown")
        .filter(has=page.locator("label", has_text=name))
        .first
    )


def test_reality_against_dream_by_mouse(lab, pages):
    page = pages("against")
    dream, large = lab.gallery(page, "dream, same actions"), lab.gallery(page, "its tokens")
    before = lab.picture(large)
    dream.get_by_role("gridcell").nth(5).click()
    said(page, "Step 5 from frame 8")
    changed(page, lab, large, before)
    for title in ("what its tokens draw", "tokens of the dream"):
        assert (
            lab.gallery(page, title).get_by_role("gridcell").nth(5).get_attribute("aria-selected")
            == "true"
        )
    lab.keep(page, "reality_against_dream")


def test_another_seed_gives_another_dream(lab, pages):
    page = pages("against")
    dream = lab.gallery(page, "dream, same actions")

    def pictures():
        return [lab.picture(dream, index) for index in range(11)]

    before, seed = pictures(), field(page, "seed").locator("input")
    seed.fill("7")
    seed.press("Enter")
    for _ in range(100):
        if pictures() != before:
            break
        page.wait_for_timeout(100)
    assert pictures() != before and pictures()[:2] == before[:2]  # two frames are given


def test_reality_against_dream_by_keyboard(lab, pages):
    page = pages("against")
    words = lab.gallery(page, "tokens of the dream")
    words.get_by_role("gridcell").first.focus()
    page.keyboard.press("End")
    said(page, "Step 10 from frame 8")
    page.keyboard.press("ArrowLeft")
    said(page, "Step 9 from frame 8")
    assert "wrong" in words.get_by_role("gridcell").nth(9).get_attribute("aria-label")


def test_many_futures_by_mouse(lab, pages):
    page = pages("tree")
    way, tree = lab.gallery(page, "the game so far"), lab.gallery(page, "6 futures")
    shown = way.locator("canvas").count()
    future = lab.picture(tree, 3)
    tree.get_by_role("gridcell").nth(3).click()
    said(page, "3 dreamt steps")
    assert way.locator("canvas").count() == shown + 3

    def inside(pixels):
        return [pixels[4 * (32 * y + x)] for y in range(1, 31) for x in range(1, 31)]

    assert inside(lab.picture(way, shown + 2)) == inside(future)
    lab.keep(page, "many_futures")
    page.get_by_role("button", name="back").click()
    said(page, "0 dreamt steps")
    page.get_by_role("button", name="back").click()
    said(page, "This is the real frame")


def test_many_futures_by_keyboard(lab, pages):
    page = pages("tree")
    tree = lab.gallery(page, "6 futures")
    tree.get_by_role("gridcell").first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    said(page, "Future 2, step 2")
    page.keyboard.press("Enter")
    said(page, "2 dreamt steps")
    # who came by keyboard may go on by keyboard
    assert page.evaluate("document.activeElement.closest('.iris-gallery') !== null")
    page.keyboard.press("ArrowRight")
    said(page, "Press it to go on from there")


def test_the_return_explorer(lab, pages):
    page = pages("returns")
    film, chart = lab.gallery(page, "press a step"), page.locator(".iris-gallery canvas").last

    def pixels():
        return chart.evaluate("c => c.toDataURL()")

    before = pixels()
    film.get_by_role("gridcell").nth(4).click()
    said(page, "Step 4: reward")
    page.wait_for_function(
        "before => [...document.querySelectorAll('.iris-gallery canvas')].at(-1).toDataURL() !== before",
        arg=before,
        timeout=20_000,
    )
    lab.keep(page, "return_explorer")
    page.keyboard.press("Home")
    said(page, "Step 0: reward")


def test_own_numbers_in_the_return_explorer(lab, pages):
    page = pages("returns")
    rewards, values = (field(page, name).locator("input") for name in ("rewards", "values"))
    rewards.fill("0, oops")
    rewards.press("Enter")
    said(page, "must hold numbers")
    rewards.fill("0, 1")
    rewards.press("Enter")
    said(page, "2 rewards need 3 values")
    values.fill("0.5, 0.5, 0.5")
    values.press("Enter")
    said(page, "Step 0: reward 0, value 0.500")
    lab.keep(page, "return_explorer_own")
