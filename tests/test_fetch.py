"""Fetching what a wheel leaves out: only after the user's word, only the very file, a sentence for every failure."""

import errno
import functools
import http.server
import io
import os
import pty
import shutil
import socket
import socketserver
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from iris_edu.apps import cli, commands
from iris_edu.base.settings import UserError
from iris_edu.zoo import fetch as module
from iris_edu.zoo.fetch import download, missing, source
from iris_edu.zoo.manifest import register
from iris_edu.zoo.store import SHIPPED, Missing, place, state, whole

ROOT = Path(__file__).resolve().parent.parent
FILE = "learning/small.csv"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    "An empty working directory with settings that name no repository."
    (tmp_path / "settings.ini").write_text("[iris_edu]\nrepository =\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Course(http.server.SimpleHTTPRequestHandler):
    "Serves the data folder of this checkout and notes what was asked for."

    asked = []

    def log_message(self, *words):
        self.asked.append(self.path)


@pytest.fixture(scope="module")
def course():
    "The address of the course's data folder on a server of this machine."
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Course, directory=ROOT / "data")
    ) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def answers():
    "A function that serves one fixed answer to every request and returns the address."
    servers = []

    def serve(content):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                self.request.recv(4096)
                if content is None:
                    return threading.Event().wait(3)
                self.request.sendall(content)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server in servers:
        server.shutdown(), server.server_close()


def run(*words, stdin=None):
    "Exit code, output and errors of a command line in this process."
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        (
            patch.setattr(sys, "stdout", out),
            patch.setattr(sys, "stderr", err),
            patch.setattr(sys, "stdin", io.StringIO(stdin or "")),
        )
        code = cli.main(list(words))
    return code, out.getvalue(), err.getvalue()


def files():
    "Every file below data/."
    return sorted(
        str(path.relative_to("data")) for path in Path("data").rglob("*") if path.is_file()
    )


# What and from where


def test_everything_is_promised_but_what_the_package_carries(folder):
    wanted = set(missing())
    assert {"episodes/Pong.npz", "checkpoints/pong-16.safetensors", FILE} <= wanted and len(
        wanted
    ) == 17
    assert not any((SHIPPED / file).exists() for file in wanted)


@pytest.mark.parametrize(
    "name, count",
    [
        ("Pong", 2),
        ("episodes/Pong", 2),
        ("episodes/Pong.npz", 1),
        ("pong-16", 1),
        ("checkpoints", 5),
        ("learning", 2),
    ],
)
def test_a_file_has_several_names(folder, name, count):
    assert len(missing([name])) == count


def test_a_name_of_nothing_is_a_sentence_with_the_names(folder):
    code, _, err = run("fetch", "Pnog")
    assert code == 2 and "episodes/Pong" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    "repository, address",
    [
        ("me/course", "https://github.com/me/course/raw/v2/data"),
        ("https://gitlab.com/me/course.git", "https://gitlab.com/me/course/raw/v2/data"),
        ("file:///srv/course", "file:///srv/course/data"),
    ],
)
def test_the_repository_of_the_settings_is_the_source(folder, repository, address):
    Path("settings.ini").write_text(f"[iris_edu]\nrepository = {repository}\nbranch = v2\n")
    assert source() == address and source("http://other/data/") == "http://other/data"


def test_without_a_repository_nothing_is_asked_of_anybody(folder):
    code, out, err = run("fetch", "--yes")
    assert (
        code == 2
        and "settings.ini names no repository" in err
        and "--from" in err
        and files() == []
    )


@pytest.mark.parametrize("address", ["ftp://server/data", "server/data", "data.zip"])
def test_an_address_of_another_kind_is_refused(folder, address):
    code, _, err = run("fetch", "--yes", "--from", address)
    assert code == 2 and "https://" in err


# The user's word


def test_outside_a_terminal_nothing_is_fetched_without_yes(folder, course):
    Course.asked.clear()
    code, out, err = run("fetch", "learning", "--from", course, stdin="y\n")
    assert (
        code == 2
        and "--yes" in err
        and "learning/small.csv" in out
        and files() == []
        and Course.asked == []
    )


def test_fetch_yes_fetches_what_is_missing_and_no_more(folder, course):
    assert run("fetch", "learning", "--yes", "--from", course)[0] == 0
    assert files() == ["learning/changes.csv", "learning/small.csv"] and state(FILE) == "whole"
    Path("data", FILE).write_text("half a fi")
    Course.asked.clear()
    assert run("fetch", "learning", "--yes", "--from", course)[0] == 0
    assert state(FILE) == "whole" and Course.asked == [f"/{FILE}"]
    assert run("fetch", "learning")[:2] == (0, "everything is here, and whole\n")


def test_a_folder_of_this_machine_is_a_source(folder):
    assert (
        run("fetch", "learning", "--yes", "--from", str(ROOT / "data"))[0] == 0
        and state(FILE) == "whole"
    )


def in_a_terminal(answer, *words, settings):
    "Exit code and what a terminal shows of a command to whose question an answer is typed."
    Path("settings.ini").write_text(settings)
    leader, follower = pty.openpty()
    env = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "300"}
    process = subprocess.Popen(
        [sys.executable, "-m", "iris_edu", *words],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=env,
        close_fds=True,
    )
    os.close(follower)
    shown = b""
    while b"[y/N]" not in shown and (part := read_some(leader)):
        shown += part
    os.write(leader, answer)
    while part := read_some(leader):
        shown += part
    os.close(leader)
    return process.wait(60), shown.decode().replace("\r\n", "\n")


def read_some(terminal):
    "What a terminal shows next; nothing at its end, which Linux reports as an error."
    try:
        return os.read(terminal, 4096)
    except OSError as error:
        if error.errno == errno.EIO:
            return b""
        raise


@pytest.mark.parametrize("answer, code", [(b"y\n", 0), (b"\n", 2), (b"\x04", 2)])
def test_a_command_that_lacks_a_file_asks_in_a_terminal(folder, answer, code):
    found, shown = in_a_terminal(
        answer,
        "watch",
        "alien-64",
        "--once",
        settings=f"[iris_edu]\nrepository = {ROOT.as_uri()}\n",
    )
    assert found == code and "2.6 MB" in shown and ROOT.as_uri() in shown, shown
    assert files() == (["checkpoints/alien-64.safetensors"] if code == 0 else [])
    assert ("1,286,640 numbers" in shown) == (code == 0) and ("iris-edu: There is no" in shown) == (
        code == 2
    )


def test_no_question_without_an_address_or_a_terminal(folder, monkeypatch):
    with pytest.raises(Missing) as lacking:
        whole(FILE)
    assert not commands.offered(lacking.value)
    code, _, err = run("watch", "alien-64")
    assert code == 2 and "iris-edu fetch checkpoints/alien-64" in err and err.count("\n") == 1


# Failures


def fails(base, part, seconds=5):
    "Fetching the file from there is one sentence and leaves no trace."
    before = files()
    with pytest.raises(UserError) as error:
        download(FILE, missing([FILE])[FILE], base, seconds=seconds)
    assert part in str(error.value) and "\n" not in str(error.value) and files() == before


HEAD = b"HTTP/1.0 200 OK\r\n\r\n"


@pytest.mark.parametrize(
    "content, part",
    [
        (b"HTTP/1.0 404 Not Found\r\n\r\n", "404"),
        (b"HTTP/1.0 503 Busy\r\n\r\n", "503"),
        (b"", "cannot be fetched"),
        (b"SSH-2.0-x\r\n", "cannot be fetched"),
        (HEAD, "another file"),
        (HEAD + b"x" * 100_000, "another file"),
        (HEAD + (ROOT / "data" / FILE).read_bytes() + b"\n", "another file"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 9999999\r\n\r\nshort", "another file"),
        (b"HTTP/1.0 302 Found\r\nLocation: file:///etc/hosts\r\n\r\n", "cannot be fetched"),
    ],
)
def test_a_wrong_answer_is_a_sentence(folder, answers, content, part):
    fails(answers(content), part)


def test_a_server_that_says_nothing_is_given_up(folder, answers):
    fails(answers(None), "no answer in time", seconds=0.3)


@pytest.mark.parametrize(
    "base, part",
    [
        ("http://127.0.0.1:1", "refused"),
        ("http://nobody.invalid/data", "cannot be fetched"),
        ("http://[::1/data", "cannot be fetched"),
        ("https:///data", "cannot be fetched"),
        ("file:///nowhere/data", "cannot be fetched"),
        ("http://a b/data", "cannot be fetched"),
    ],
)
def test_an_address_where_nobody_is_is_a_sentence(folder, base, part, monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", local_only)
    fails(base, part)


def local_only(host, *rest, real=socket.getaddrinfo):
    "No question leaves this machine."
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return real(host, *rest)


def test_a_full_disk_is_a_sentence_and_keeps_what_was_there(folder, course, monkeypatch):
    run("fetch", "learning", "--yes", "--from", course)
    Path("data", FILE).write_text("damaged")

    def full(*words):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    code, _, err = run("fetch", "learning", "--yes", "--from", course)
    assert code == 2 and "the disk is full" in err and Path("data", FILE).read_text() == "damaged"


def test_after_a_failure_the_rest_is_fetched(folder, course, tmp_path):
    half = tmp_path / "half"
    (half / "learning").mkdir(parents=True)
    shutil.copy(place("learning/changes.csv", ROOT / "data"), half / "learning")
    code, _, err = run("fetch", "learning", "--yes", "--from", str(half))
    assert code == 2 and "small.csv" in err and files() == ["learning/changes.csv"]
    Course.asked.clear()
    assert run("fetch", "learning", "--yes", "--from", course)[0] == 0 and Course.asked == [
        f"/{FILE}"
    ]


def test_a_file_made_here_and_one_that_was_fetched_are_both_whole(folder, course):
    "What `iris-edu make` noted beside its own file does not make the promised one a damaged one."
    Path("data/learning").mkdir(parents=True)
    Path("data", FILE).write_text("run,return\n")
    register(FILE, "made here")
    assert state(FILE) == "whole" and FILE not in missing()
    Path("data", FILE).unlink()
    module.fetch(missing([FILE]), course, tell=lambda line: None)
    assert state(FILE) == "whole" and FILE not in missing()
