"""A real browser for the tests of the widgets: JupyterLab on this machine, driven through Debian's Chromium."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

# before PyTorch is loaded: threads that wait by spinning crawl on a busy machine
# a shell that starts tests in the background lets them ignore Ctrl-C, and all processes they start
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

ROOT = Path(__file__).resolve().parent.parent
# files that train, start processes or open a browser
SLOW = set(
    "test_agent test_bench test_browser test_browser_play test_browser_views test_cli test_crash "
    "test_dashboard test_evaluation test_exchange test_execution test_fetch test_fuzz test_golden "
    "test_install test_own_data test_runs test_training test_typed test_views test_views_dream_pad "
    "test_zoo_dreams test_zoo_recipes test_zoo_tokenizers".split()
)
SCREENSHOTS = ROOT / "runs" / "screenshots"
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()


def chromium():
    """The path of a Chromium.

    Installs Debian's where this process may; skips the test where there is none.
    """

    def found():
        return next(
            filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
        )

    if not found() and shutil.which("apt-get") and os.geteuid() == 0:
        with contextlib.suppress(subprocess.SubprocessError):
            for command in ("update", "install -y --no-install-recommends chromium"):
                subprocess.run(
                    ["apt-get", "-qq", *command.split()],
                    check=True,
                    capture_output=True,
                    timeout=300,
                )
    return found() or pytest.skip(
        "no Chromium: install it to test the widgets in a browser (apt-get install chromium)"
    )


def free_port():
    "A port nobody listens on."
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(url, process, seconds=90):
    "Until the server answers, be it that there is no such page; fails if it ended."
    for _ in range(seconds * 5):
        try:
            return urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            pass
        if process.poll() is not None:
            break
        time.sleep(0.2)
    raise AssertionError(f"no server at {url}")


class Lab:
    "One JupyterLab and one browser; every notebook is opened and run once, whoever asks for it."

    def __init__(self, browser, base, token, folder):
        self.browser, self.base, self.token, self.folder, self.opened, self.strangers = (
            browser,
            base,
            token,
            folder,
            {},
            [],
        )

    def notebook(self, name):
        "The page of the notebook NAME.ipynb, wherever below nbs, after all its cells have run."
        if name not in self.opened:
            [path] = (ROOT / "nbs").rglob(f"{name}.ipynb")
            shutil.copy(path, self.folder)
            self.opened[name] = self.run(f"{name}.ipynb")
        return self.opened[name]

    def cells(self, name, *sources):
        "The page of a new notebook that consists of these cells, after they have run."
        blank = dict(cell_type="code", metadata={}, execution_count=None, outputs=[])
        cells = [blank | dict(id=f"cell-{i}", source=source) for i, source in enumerate(sources)]
        kernel = {
            "kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}
        }
        (self.folder / f"{name}.ipynb").write_text(
            json.dumps(dict(cells=cells, metadata=kernel, nbformat=4, nbformat_minor=5))
        )
        return self.run(f"{name}.ipynb")

    def page(self, url, base=None):
        """A new page whose requests to other machines than that of `base`, the Lab's unless given,
        are noted and refused.
        """
        base = base or self.base
        page = self.browser.new_page(viewport={"width": 1500, "height": 1100})

        def check(route):
            at_home = route.request.url.startswith(
                (base, base.replace("http", "ws"), "data:", "blob:")
            )
            # a picture in the text of every chapter, for GitHub's readers
            badge = route.request.url.endswith("/colab-badge.svg")
            if not at_home and not badge:
                self.strangers.append(route.request.url)
            route.continue_() if at_home else route.abort()

        page.route("**/*", check)
        page.goto(url)
        return page

    def run(self, file):
        "Open a notebook, run all its cells; fails if one of them raised."
        page = self.page(
            f"{self.base}/lab/workspaces/{file.split('.')[0]}/tree/{file}?token={self.token}"
        )
        page.wait_for_function(
            "window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell')", timeout=60_000
        )
        page.wait_for_function(
            """() => { const kernel = window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel;
            // before that, running asks which kernel to take
            return kernel && kernel.connectionStatus === 'connected' && kernel.status === 'idle'; }""",
            timeout=60_000,
        )
        page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
        wrong = page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr'], .jp-RenderedText[data-mime-type='application/vnd.jupyter.error']"
        )
        errors = [text for text in wrong.all_inner_texts() if "Error" in text]
        assert not errors, errors[0]
        return page

    def gallery(self, page, title):
        "The last gallery on the page whose title begins so."
        import re

        return (
            page.locator(".iris-gallery")
            .filter(has=page.locator(".iris-title", has_text=re.compile("^" + re.escape(title))))
            .last
        )

    def picture(self, gallery, index=0):
        "The pixels of one picture as the browser drew it: a list of numbers."
        return (
            gallery.locator("canvas")
            .nth(index)
            .evaluate(
                "c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
            )
        )

    def keep(self, page, name):
        "A screenshot in runs/screenshots/, to be looked at."
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=SCREENSHOTS / f"{name}.png")


@contextlib.contextmanager
def server(*command, folder, env=None):
    "A server process in a group of its own that does not outlive the tests, nor do its children."
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=os.environ | (env or {}),
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


@contextlib.contextmanager
def open_lab(driver, new_folder):
    """A Lab in folders that new_folder(name) makes.

    JupyterLab is that of LAB_PYTHON, if the environment names one, to try an older front end.
    """
    path, folder, settings, token = chromium(), new_folder("lab"), new_folder("settings"), "test"
    tracker = settings / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    # draw every cell, also those below the fold
    tracker.write_text('{"windowingMode": "none", "numberCellsToRenderDirectly": 999}')
    news = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    port = free_port()
    command = [
        os.environ.get("LAB_PYTHON", sys.executable),
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        "--ip=127.0.0.1",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={folder}",
        "--LabApp.expose_app_in_browser=True",
    ]
    env = {
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "JUPYTERLAB_WORKSPACES_DIR": str(new_folder("workspaces")),
    }
    with server(*command, folder=folder, env=env) as process:
        wait_for(f"http://127.0.0.1:{port}/api", process)
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield Lab(browser, f"http://127.0.0.1:{port}", token, folder)
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory):
    "The Lab; at the end nobody may have asked another machine for anything."
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is missing: pip install -e '.[dev]'"
    )
    with playwright.sync_playwright() as driver, open_lab(driver, tmp_path_factory.mktemp) as found:
        yield found
    assert not found.strangers, f"the page asked other machines: {set(found.strangers)}"


def pytest_collection_modifyitems(items):
    """The browser's tests come last, and files of long tests are marked slow.

    Its driver keeps an event loop in this process, which other tests need to be without.
    """
    for item in items:
        if item.path.stem in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "lab" in item.fixturenames)


@pytest.fixture
def zoo_folder(tmp_path, monkeypatch):
    "A data folder with one recording and one checkpoint, which the command line uses."
    from iris_edu.agent import build_agent
    from iris_edu.config import PRESETS
    from iris_edu.zoo import manifest
    from iris_edu.zoo.recipes import RECIPES, Recipe

    def make_nothing(name, folder=None):
        "A recipe that leaves the file as it is."

    (tmp_path / "data" / "episodes").mkdir(parents=True)
    shutil.copy(ROOT / "data/episodes/Pong.npz", tmp_path / "data/episodes/Pong.npz")
    (tmp_path / "settings.ini").write_text("[iris_edu]\nrepository = me/course\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(RECIPES, "checkpoints/small", Recipe("checkpoints/small", make_nothing))
    manifest.register("episodes/Pong.npz", "a copy")
    small = PRESETS["small"]
    tokenizer = {"tokenizer": build_agent(small, 3).tokenizer}
    manifest.save_trained("small", tokenizer, small, {"updates": 3})
    return tmp_path / "data"


@pytest.fixture(scope="session")
def catch():
    "The shipped agent for Catch."
    from iris_edu.agent import load_trained

    return load_trained("catch-small")


@pytest.fixture(scope="session")
def fall(catch):
    "A game of Catch, played at random."
    import numpy as np

    from iris_edu.envs import make_env
    from iris_edu.recordings import record

    rng = np.random.default_rng(0)
    return record(make_env(catch.config.env), lambda frame: rng.integers(3), steps=200)


@pytest.fixture(scope="session")
def pong():
    "The shipped world model of Pong, without a policy."
    from iris_edu.agent import load_trained

    return load_trained("pong-dream")


@pytest.fixture(scope="session")
def rally():
    "A recorded game of Pong."
    from iris_edu.zoo.episodes import load_episodes

    return load_episodes("Pong")


@pytest.fixture
def press():
    "What the browser does when a picture of a gallery is pressed."

    def press(gallery, cell):
        gallery.chosen = cell
        gallery._handle_custom_msg({"type": "press", "cell": cell}, [])

    return press
