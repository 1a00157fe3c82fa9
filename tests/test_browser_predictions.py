"Predictions, attention and the dashboard in a real browser: with the mouse, with the keyboard, and what a screen reader is told."

import numpy as np
import pytest
from PIL import Image

from iris_edu.resume import begin
from iris_edu.run import append_metrics
from iris_edu.training import PRESETS


@pytest.fixture(scope="module")
def page(lab):
    return lab.notebook("next_token")


@pytest.fixture(scope="module")
def attention(lab):
    return lab.notebook("attention")


def said(page, *words):
    "Waits until some widget says a sentence with all of these words."
    page.wait_for_function(
        "words => [...document.querySelectorAll('.iris-status')].some(e => words.every(w => e.textContent.includes(w)))",
        arg=list(words),
        timeout=20_000,
    )


def became(page, locator, before):
    "Waits until the words of a gallery are others."
    page.wait_for_function(
        "([e, was]) => e.innerText !== was", arg=[locator.element_handle(), before], timeout=20_000
    )


def slider(page, name):
    "The handle of the last slider of that name."
    return page.locator(".widget-slider").filter(has_text=name).last.locator(".noUi-handle")


def test_next_token_by_mouse(lab, page):
    board, choices = lab.gallery(page, "how unsure"), lab.gallery(page, "the likeliest codes")
    # as the cells have set it
    page.locator(".widget-slider").filter(has_text="temperature").last.get_by_text(
        "1.000", exact=True
    ).wait_for(timeout=20_000)
    board.get_by_role("gridcell").nth(11).click()
    said(page, "After frame 100", "row 3, column 4", "bits")
    before, picture = choices.inner_text(), lab.picture(choices)
    board.get_by_role("gridcell").nth(0).click()
    became(page, choices, before)
    assert lab.picture(choices) != picture and "row 1, column 1" in choices.inner_text()
    board.get_by_role("gridcell").nth(11).click()
    said(page, "row 3, column 4")
    board.scroll_into_view_if_needed()
    lab.keep(page, "next_token")


def test_next_token_by_keyboard(lab, page):
    page.get_by_role("combobox", name="after").last.select_option("dreamt tokens")
    said(page, "After frame 100", "was drawn, given")
    board, came = lab.gallery(page, "how unsure"), lab.gallery(page, "dreamt: frame")
    cells = board.get_by_role("gridcell")
    cells.nth(5).focus()
    page.keyboard.press("ArrowRight")
    said(page, "row 2, column 3")
    before = board.inner_text()
    for _ in range(8):
        slider(page, "temperature").press("ArrowRight")
    became(page, board, before)
    before = lab.picture(came)
    page.get_by_role("combobox", name="after").last.select_option("the tokens that came")
    said(page, "After frame 100", "came, given")
    came = lab.gallery(page, "came: frame 101")
    assert lab.picture(came) != before
    slider(page, "frame").nth(0).scroll_into_view_if_needed()
    page.get_by_role("button", name="dream again").last.press("Enter")
    said(page, "Nothing is dreamt now")


def test_frame_attention_by_mouse(lab, attention):
    page = attention
    board, past, heads = (
        lab.gallery(page, title)
        for title in ("frame 101: predict", "weight on earlier frames", "heads")
    )
    before, picture = past.inner_text(), lab.picture(past, 2)
    board.get_by_role("gridcell").nth(14).click()
    said(page, "To predict row 4, column 3 of frame 101")
    heads.get_by_role("gridcell").nth(10).click()
    said(page, "To predict row 4, column 3 of frame 101, layer 3, head 1:")
    assert lab.picture(past, 2) != picture and past.inner_text() != before
    assert (
        board.get_by_role("gridcell").nth(14).get_attribute("aria-label")
        == "row 4, column 3: predicted"
    )
    past.scroll_into_view_if_needed()
    lab.keep(page, "frame_attention")


def test_frame_attention_by_keyboard(lab, attention):
    page = attention
    heads, past = lab.gallery(page, "heads"), lab.gallery(page, "weight on earlier frames")
    heads.get_by_role("gridcell").nth(10).focus()
    page.keyboard.press("ArrowUp")
    said(page, "layer 2, head 1:")
    page.keyboard.press("End")
    said(page, "all layers, mean of heads:")
    before = past.inner_text()
    slider(page, "frame").press("ArrowRight")
    became(page, past, before)
    said(page, "of frame 102, all layers, mean of heads:")


def record(epoch):
    "What an epoch writes."
    return {
        "epoch": epoch,
        "collect/return": epoch / 10,
        "evaluate/return": epoch / 4,
        "world_model/transition": 3 / epoch,
        "world_model/seconds": 2.0,
        "evaluate/codebook_used": 0.3,
        "steps": 400 * epoch,
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "The folder of a run that has done four epochs."
    folder = tmp_path_factory.mktemp("run")
    begin(PRESETS["small"], folder)
    for epoch in range(1, 5):
        append_metrics(folder, record(epoch))
    return folder


def test_dashboard(lab, run):
    page = lab.cells(
        "dashboard",
        f"from iris_edu.views.dashboard import Dashboard, FOLLOWERS\nboard = Dashboard({str(run)!r}, seconds=0.2)\nboard",
    )
    said(page, "Catch, epoch 4 of 20", "return 1", "30% of the codes in use")
    said(page, "No picture yet")
    curves = page.locator(".iris-gallery").filter(has_text="collect return")
    before = lab.picture(curves)
    (run / "pictures").mkdir()
    for epoch in (4, 5):
        Image.fromarray(np.random.default_rng(epoch).integers(0, 255, (60, 400, 3), np.uint8)).save(
            run / f"pictures/epoch_{epoch:04d}.png"
        )
    append_metrics(run, record(5))
    page.get_by_role("button", name="refresh", exact=True).press("Enter")
    said(page, "Catch, epoch 5 of 20")
    assert lab.picture(curves) != before and "collect return 0.5" in curves.locator(
        ".iris-grid"
    ).get_attribute("aria-label")
    page.get_by_role("combobox", name="picture of epoch").select_option("4")
    page.wait_for_function(
        "[...document.querySelectorAll('.iris-title')].some(e => e.textContent.startsWith('epoch 4'))"
    )
    page.get_by_role("checkbox", name="follow").press("Space")
    page.wait_for_timeout(600)
    append_metrics(run, record(6))
    said(page, "Catch, epoch 6 of 20")
    lab.keep(page, "dashboard")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(
        "document.querySelectorAll('input[type=checkbox]:checked').length === 0", timeout=20_000
    )
    said(page, "Catch, epoch 6 of 20")


@pytest.mark.parametrize("notebook", ["next_token", "attention"])
def test_what_is_read_aloud(lab, notebook):
    for gallery in lab.notebook(notebook).locator(".iris-gallery").all():
        grid, pictures = gallery.locator(".iris-grid"), gallery.locator("canvas").count()
        if pictures:
            assert grid.get_attribute("role") in ("grid", "img") and grid.get_attribute(
                "aria-label"
            )
        labels = [
            cell.get_attribute("aria-label") for cell in gallery.get_by_role("gridcell").all()
        ]
        assert all(labels) and len(set(labels)) == len(labels)
