"""The editor of tokens and the codebook in a real browser: with the mouse, with the keyboard, and what a screen reader is told."""

import pytest


@pytest.fixture(scope="module")
def page(lab):
    return lab.notebook("tokens")


def said(page, beginning):
    "Waits until some widget says a sentence that begins so."
    page.wait_for_function(
        "b => [...document.querySelectorAll('.iris-status')].some(e => e.textContent.startsWith(b))",
        arg=beginning,
        timeout=20_000,
    )


def test_the_token_editor_by_mouse(lab, page):
    board, drawn = lab.gallery(page, "its tokens"), lab.gallery(page, "what the tokens draw")
    cell = board.get_by_role("gridcell").nth(5)
    cell.click()
    said(page, "Frame 100, row 2, column 2")
    picture, label = lab.picture(drawn), cell.get_attribute("aria-label")
    lab.gallery(page, "put into row 2, column 2").get_by_role("gridcell").nth(6).click()
    page.wait_for_function(
        "([cell, was]) => cell.getAttribute('aria-label') !== was",
        arg=[cell.element_handle(), label],
        timeout=20_000,
    )
    assert "iris-marked" in cell.get_attribute("class")
    assert lab.picture(drawn) != picture
    page.get_by_role("button", name="dream both").last.click()
    said(page, "The two dreams differ by")
    lab.keep(page, "token_editor")


def test_the_token_editor_by_keyboard(lab, page):
    cells = lab.gallery(page, "its tokens").get_by_role("gridcell")
    cells.nth(5).focus()
    page.keyboard.press("ArrowDown")
    said(page, "Frame 100, row 3, column 2")
    page.keyboard.press("End")
    said(page, "Frame 100, row 4, column 4")
    assert cells.nth(15).get_attribute("aria-selected") == "true" and cells.nth(15).evaluate(
        "e => e === document.activeElement"
    )
    for _ in range(10):
        page.get_by_role("button", name="undo").last.press("Enter")
    said(page, "There is nothing to undo")


def test_the_codebook(lab, page):
    codes = lab.gallery(page, "512 codes").get_by_role("gridcell")
    assert codes.count() == 512 and codes.nth(511).get_attribute("aria-label").endswith("unused")
    codes.nth(3).click()
    said(page, f"Code {codes.nth(3).get_attribute('aria-label').split()[1].rstrip(',')}:")
    codes.nth(3).press("ArrowRight")
    said(page, f"Code {codes.nth(4).get_attribute('aria-label').split()[1].rstrip(',')}:")
    codes.nth(4).scroll_into_view_if_needed()
    lab.keep(page, "codebook")


def test_what_is_read_aloud(lab, page):
    for gallery in page.locator(".iris-gallery").all():
        grid, pictures = gallery.locator(".iris-grid"), gallery.locator("canvas").count()
        assert gallery.locator("[role=status][aria-live=polite]").count() == 1
        if pictures:
            assert grid.get_attribute("role") in (
                "grid",
                "img",
                "application",
            ) and grid.get_attribute("aria-label")
        labels = [
            cell.get_attribute("aria-label") for cell in gallery.get_by_role("gridcell").all()[:20]
        ]
        assert all(labels) and len(set(labels)) == len(labels)


@pytest.mark.parametrize(
    "chapter, titles",
    [
        ("00_tour", ["the game"]),
        ("reenactment", ["dream, same actions"]),
        ("returns", ["press a step of the dream"]),
        ("dream_pad", ["the game"]),
        ("dashboard", []),
    ],
)
def test_the_other_chapters_draw_their_views(lab, chapter, titles):
    """The chapter is run from its first cell to its last.

    Every view in it has drawn pictures of more than one colour, and says a sentence.
    """
    page = lab.notebook(chapter)
    galleries = page.locator(".iris-gallery")
    galleries.first.wait_for(timeout=60_000)
    for title in titles:
        assert len(set(lab.picture(lab.gallery(page, title)))) > 2, title
    if chapter != "dashboard":
        page.wait_for_function(
            "[...document.querySelectorAll('.iris-status')].some(e => e.textContent.length > 20)",
            timeout=20_000,
        )
    galleries.last.scroll_into_view_if_needed()
    lab.keep(page, f"chapter_{chapter}")
