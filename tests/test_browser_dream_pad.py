"""The dream pad in a real browser: keys, buttons, the agent, and what happens when nobody looks."""

import sys
from pathlib import Path

import pytest
from conftest import free_port, server, wait_for


@pytest.fixture(scope="module")
def page(lab):
    return lab.cells(
        "pad",
        "from iris_edu.views.dream_pad import DreamPad\nfrom iris_edu.views.game import opened\npad = DreamPad(*opened('catch-small'), frame=10)\npad",
    )


def words(lab, page):
    return lab.gallery(page, "the game").locator(".iris-text").inner_text()


def step(lab, page):
    return int(words(lab, page).split(",")[0].split()[1])


def until(page, condition, seconds=20):
    "Waits until condition() holds."
    for _ in range(seconds * 10):
        if condition():
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"it did not happen; the widget says: {status(page)}")


def status(page):
    return page.locator(".iris-status").last.inner_text()


def test_step_by_step_with_the_mouse(lab, page):
    screen = lab.gallery(page, "the game")
    before, at = lab.picture(screen), step(lab, page)
    page.get_by_role("button", name="step", exact=True).click()
    until(page, lambda: step(lab, page) == at + 1)
    page.get_by_role("button", name="right", exact=True).click()
    until(page, lambda: step(lab, page) == at + 2)
    assert lab.picture(screen) != before


def test_it_plays_with_keys_and_pauses(lab, page):
    page.get_by_role("button", name="play", exact=True).click()
    screen = lab.gallery(page, "the game").locator("[role=application]")
    screen.click()
    page.keyboard.down("ArrowLeft")
    until(page, lambda: step(lab, page) >= 8)
    page.keyboard.up("ArrowLeft")
    lab.keep(page, "dream_pad")
    page.get_by_role("button", name="pause", exact=True).click()
    until(page, lambda: status(page).startswith("Paused") or "ended" in status(page))
    page.wait_for_timeout(300)
    at = step(lab, page)
    page.wait_for_timeout(500)
    assert step(lab, page) == at


def test_the_agent_plays_in_the_real_game(lab, page):
    page.get_by_role("radio", name="real game").or_(
        page.get_by_role("button", name="real game")
    ).first.click()
    until(page, lambda: "real game" in status(page))
    page.get_by_role("radio", name="agent").or_(
        page.get_by_role("button", name="agent", exact=True)
    ).first.click()
    until(page, lambda: status(page) == "The agent plays.")
    page.get_by_role("button", name="step", exact=True).click()
    until(page, lambda: step(lab, page) == 1)
    assert "context" not in words(lab, page)


def test_it_stops_when_its_cell_is_run_again(lab, page):
    page.get_by_role("button", name="start again", exact=True).click()
    until(page, lambda: status(page).startswith("Ready"))
    page.get_by_role("button", name="play", exact=True).click()
    until(page, lambda: step(lab, page) >= 2)
    page.evaluate("window.jupyterapp.commands.execute('notebook:insert-cell-below')")
    (lab.folder / "gone.txt").unlink(missing_ok=True)
    page.evaluate("""() => { const cell = window.jupyterapp.shell.currentWidget.content.activeCell;
        cell.model.sharedModel.setSource("first = pad\\nimport IPython\\nget_ipython().kernel.io_loop.call_later(5, lambda: open('gone.txt', 'w').write(f'{not first.playing} {first.voice.status}'))"); }""")
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-cell')")
    page.evaluate(
        "window.jupyterapp.shell.currentWidget.content.activeCellIndex = 0; window.jupyterapp.commands.execute('notebook:clear-cell-output')"
    )
    until(
        page, lambda: (lab.folder / "gone.txt").exists() and (lab.folder / "gone.txt").read_text()
    )
    assert (lab.folder / "gone.txt").read_text().startswith("True")


def test_the_command_shows_the_pad_without_a_cell(lab, tmp_path):
    """`iris-edu play` serves a page with the pad alone.

    It plays by key, and asks no other machine (the fixture looks).
    """
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    with server(
        Path(sys.executable).with_name("iris-edu"),
        "play",
        "catch-small",
        "--no-browser",
        f"--port={port}",
        folder=tmp_path,
    ) as process:
        wait_for(f"{base}/no-such-page", process)  # a page of its own would start a kernel
        page = lab.page(base, base)
        page.get_by_role("button", name="play", exact=True).click(timeout=60_000)
        until(page, lambda: step(lab, page) >= 2)
        screen = lab.gallery(page, "the game").locator("[role=application]")
        screen.click()
        page.keyboard.down("ArrowRight")
        until(
            page,
            lambda: words(lab, page).split(",")[0].endswith("right") or "ended" in words(lab, page),
        )
        page.keyboard.up("ArrowRight")
        lab.keep(page, "iris_edu_play")
        assert (
            page.locator(".jp-InputArea, .jp-CodeCell .cm-editor").count() == 0
            and page.get_by_role("button", name="save GIF").count() == 1
        )
        page.close()
