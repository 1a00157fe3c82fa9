"""How smooth the dream pad is in JupyterLab and Chromium on this machine: python tests/bench_pad.py [pong-dream [15]], a model and pictures a second"""

import statistics
import sys
import tempfile
from pathlib import Path

from conftest import open_lab
from playwright.sync_api import sync_playwright

WATCH = """() => { const words = [...document.querySelectorAll('.iris-text')].find(e => e.textContent.startsWith('step')); window.seen = [];
    new MutationObserver(() => window.seen.push([performance.now(), words.textContent])).observe(words, {childList: true, characterData: true, subtree: true}); }"""
PRESS = """() => { const at = performance.now(), screen = document.querySelector('[role=application]');
    for (const kind of ['keydown', 'keyup']) screen.dispatchEvent(new KeyboardEvent(kind, {key: 'ArrowLeft', bubbles: true})); return at; }"""


def measure(page, presses=20):
    "Median ms between two pictures, and from a key to the picture of its action."
    page.evaluate(WATCH)
    page.get_by_role("button", name="play", exact=True).click()
    waits = []
    for number in range(presses):
        page.wait_for_timeout(330 + 37 * (number % 5))  # out of step with the pictures
        at = page.evaluate(PRESS)
        page.wait_for_timeout(500)
        waits += [
            time - at
            for time, words in page.evaluate("window.seen")
            if time > at and words.split(",")[0].endswith(" left")
        ][:1]
    times = [time for time, _ in page.evaluate("window.seen")]
    return (
        statistics.median(b - a for a, b in zip(times, times[1:])),
        statistics.median(waits),
        len(waits),
    )


if __name__ == "__main__":
    name, rate = (sys.argv[1:] + ["pong-dream", "15"][len(sys.argv) - 1 :])[:2]
    with (
        sync_playwright() as driver,
        open_lab(driver, lambda kind: Path(tempfile.mkdtemp(prefix=kind))) as lab,
    ):
        page = lab.cells(
            "pad",
            f"from iris_edu.views.dream_pad import DreamPad\nfrom iris_edu.views.game import opened\nDreamPad(*opened('{name}'), rate={rate})",
        )
        picture, key, heard = measure(page)
        print(
            f"{name}, at most {rate} a second: {picture:.0f} ms a picture ({1000 / picture:.1f} a second), {key:.0f} ms from key to picture ({heard} keys)"
        )
