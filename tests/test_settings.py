"""Settings and stamping: what the appendix does not show."""

import json
import os
import subprocess
import sys
import types
from pathlib import Path

import nbformat
import notebook_hygiene
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from iris_edu.base import settings as module
from iris_edu.base.settings import (
    BADGE_MARK,
    NO_BADGE,
    SETUP_MARK,
    Settings,
    UserError,
    colab_badge,
    load_settings,
    setup_cell,
    stamp,
)

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = [path for path in notebook_hygiene.notebooks() if path.name != "index.ipynb"]
MINE = Settings(repository="me/course", branch="fix/one")


def notebook(*cells):
    "A notebook as a dict: the two generated cells, empty, then the cells given."
    cells = [
        nbformat.v4.new_markdown_cell(BADGE_MARK),
        nbformat.v4.new_code_cell(SETUP_MARK),
        *cells,
    ]
    return json.loads(nbformat.writes(nbformat.v4.new_notebook(cells=cells)))


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nbs").mkdir()
    (tmp_path / "nbs" / "01_one.ipynb").write_text(json.dumps(notebook()))
    return tmp_path / "nbs"


def one_sentence(error):
    "The message of a UserError, checked to be one sentence on one line."
    text = str(error.value)
    assert "\n" not in text and text[-1] in ".?", text
    return text


# Reading


def test_the_file_of_this_repository_states_the_defaults():
    own, default = load_settings(ROOT / "settings.ini"), Settings()
    assert (own.repository, own.branch, own.preset) == (
        default.repository,
        default.branch,
        default.preset,
    )
    assert (own.data, own.runs) == (ROOT / "data", ROOT / "runs")


def test_search_passes_by_the_settings_of_other_tools(tmp_path, monkeypatch):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    (tmp_path / "settings.ini").write_text("[iris_edu]\npreset = atari100k\n")
    (tmp_path / "a" / "settings.ini").write_text("[DEFAULT]\nlib_name = other\n")
    monkeypatch.chdir(inner)
    assert load_settings().preset == "atari100k"
    assert load_settings().runs == Path("runs")


def test_an_installed_package_far_from_any_file_uses_the_defaults(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        module, "__file__", str(tmp_path / "site-packages" / "iris_edu" / "settings.py")
    )
    assert load_settings() == Settings()


def test_an_editable_checkout_is_found_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_settings() == load_settings(ROOT / "settings.ini")


def test_comments_marks_and_percent_signs_are_read(tmp_path):
    path = tmp_path / "settings.ini"
    path.write_bytes(
        "\ufeff# first\n[iris_edu]\nbranch = dev # work in progress\nruns = 100%\n".encode()
    )
    assert (load_settings(path).branch, load_settings(path).runs.name) == ("dev", "100%")


def test_an_empty_repository_is_none(tmp_path):
    path = tmp_path / "settings.ini"
    path.write_text("[iris_edu]\nrepository =\n")
    assert load_settings(path).repository == load_settings(path).address == ""


@pytest.mark.parametrize(
    "content, part",
    [
        (b"", "no section [iris_edu]"),
        (b"[DEFAULT]\nbranch = main\n", "no section"),
        (b"branch = main\n", "not a settings file"),
        (b"[iris_edu]\nbranch = a\nbranch = b\n", "already exists"),
        (b"[iris_edu]\nbranch\n", "not a settings file"),
        (b"[iris_edu]\nrun = x\n", "did you mean runs?"),
        (b"[iris_edu]\nqqq = x\n", "the keys are repository, branch"),
        (b"[iris_edu]\ndata =\n", "leaves data empty"),
        (b"[iris_edu]\nbranch = \xff\xfe\n", "not UTF-8"),
        (b"[iris_edu]\nrepository = course\n", "owner/name"),
        (b'[iris_edu]\nbranch = x"; rm\n', "not a branch name"),
        (b"[iris_edu]\nbranch = --force\n", "not a branch name"),
    ],
)
def test_every_mistake_is_one_sentence(tmp_path, content, part):
    path = tmp_path / "settings.ini"
    path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_settings(path)
    assert part in one_sentence(error)


def test_a_missing_file_and_a_folder_are_mistakes(tmp_path):
    for path in (tmp_path / "none.ini", tmp_path):
        with pytest.raises(UserError) as error:
            load_settings(path)
        assert "cannot read" in one_sentence(error)


def test_only_the_standard_library_is_loaded():
    code = "import sys; old = set(sys.modules); import iris_edu.base.settings; print(*{m.split('.')[0] for m in set(sys.modules) - old})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(loaded) - {"iris_edu"} <= set(sys.stdlib_module_names)


# The generated cells


@pytest.fixture
def setup(monkeypatch, tmp_path):
    """A function that runs the setup cell in an empty folder, with a clone that makes folders only.

    It returns the commands of the cell.
    """
    monkeypatch.chdir(tmp_path)

    def run(settings=MINE, failing=()):
        commands = []

        def command(words):
            commands.append(words)
            done = types.SimpleNamespace(returncode=int(words[0] in failing or words[2] in failing))
            if words[0] != "git" or done.returncode:
                return done
            Path("course/nbs").mkdir(parents=True)
            Path("course/settings.ini").touch()
            return done

        monkeypatch.setattr(subprocess, "run", command)
        exec(setup_cell(settings), {})
        return commands

    return run


def on_colab(monkeypatch):
    "As if this process ran on Colab."
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))


def test_setup_does_nothing_but_on_colab(setup):
    assert setup() == [] and setup(Settings()) == []


def test_setup_clones_installs_and_goes_where_the_notebooks_are(setup, monkeypatch, tmp_path):
    on_colab(monkeypatch)
    clone, install = setup()
    assert clone == [
        "git",
        "clone",
        "--quiet",
        "--depth=1",
        "--branch=fix/one",
        "https://github.com/me/course",
        "course",
    ]
    assert install == [sys.executable, "-m", "pip", "install", "--quiet", "./course[notebook]"]
    assert Path.cwd() == tmp_path / "course" / "nbs" and setup() == []
    os.chdir(tmp_path)  # a kernel that was started anew
    assert setup() == [install] and Path.cwd() == tmp_path / "course" / "nbs"


@pytest.mark.parametrize(
    "failing, words",
    [("git", "git could not clone the course"), ("pip", "pip could not install the course")],
)
def test_setup_says_what_could_not_be_done(setup, monkeypatch, tmp_path, failing, words):
    on_colab(monkeypatch)
    with pytest.raises(RuntimeError, match=words):
        setup(failing=(failing,))
    assert Path.cwd() == tmp_path
    setup()
    assert Path.cwd() == tmp_path / "course" / "nbs"


def test_without_a_repository_colab_gets_a_sentence_and_nothing_points_anywhere(setup, monkeypatch):
    on_colab(monkeypatch)
    with pytest.raises(RuntimeError, match="write the repository into settings.ini"):
        setup(Settings())
    assert "://" not in setup_cell(Settings()) + colab_badge("nbs/01_one.ipynb", Settings())


@pytest.mark.parametrize("repository", ["https://gitlab.com/me/course", "file:///srv/course"])
def test_an_address_elsewhere_is_cloned_and_has_no_badge(repository):
    settings = Settings(repository=repository)
    assert f"{repository} course" in setup_cell(settings) and NO_BADGE in colab_badge(
        "nbs/01_one.ipynb", settings
    )


def test_the_address_of_a_repository_on_github_is_as_good_as_its_name():
    settings = Settings(repository="https://github.com/me/course", branch="fix/one")
    assert colab_badge("nbs/01_one.ipynb", settings) == colab_badge(
        "nbs/01_one.ipynb", MINE
    ) and setup_cell(settings) == setup_cell(MINE)


def test_no_file_names_a_repository_that_is_not_ours():
    files = subprocess.run(
        ["git", "grep", "-lI", "github.com/iris-" + "edu"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert not files


# Stamping


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.floats(allow_nan=False, allow_infinity=False))))
def test_stamping_touches_only_its_own_cells(tmp_path_factory, cells):
    path = tmp_path_factory.mktemp("nbs") / "01_one.ipynb"
    before = notebook(
        *(
            nbformat.v4.new_code_cell(
                text,
                outputs=[
                    nbformat.v4.new_output(
                        "display_data", {"text/plain": text, "application/json": x}
                    )
                ],
            )
            for text, x in cells
        )
    )
    path.write_text(json.dumps(before))
    assert stamp(path.parent, MINE) == ["01_one.ipynb"]
    once = path.read_bytes()
    assert (
        stamp(path.parent, MINE) == stamp(path.parent, MINE, check=True) == []
        and path.read_bytes() == once
    )
    after = json.loads(once)
    assert after["cells"][2:] == before["cells"][2:] and [c["id"] for c in after["cells"]] == [
        c["id"] for c in before["cells"]
    ]
    assert once.decode() == nbformat.writes(nbformat.reads(once.decode(), 4)) + "\n"


def test_a_notebook_that_is_right_is_not_written_however_it_is_formatted(folder):
    path = folder / "01_one.ipynb"
    stamp(folder, MINE)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=4))
    before = path.read_bytes()
    assert stamp(folder, MINE) == [] and path.read_bytes() == before


def test_another_repository_reaches_every_generated_cell(folder):
    stamp(folder, MINE)
    stamp(folder, Settings(repository="you/other"))
    text = (folder / "01_one.ipynb").read_text()
    assert "me/course" not in text and text.count("you/other") == 2


def test_the_text_around_a_badge_stays(folder):
    path = folder / "01_one.ipynb"
    book = notebook()
    book["cells"][0]["source"] = ["# One\n", "\n", BADGE_MARK + "\n", "\n", "Two"]
    path.write_text(json.dumps(book))
    stamp(folder, MINE)
    stamp(folder, Settings())
    lines = json.loads(path.read_text())["cells"][0]["source"]
    assert lines == ["# One\n", "\n", BADGE_MARK + "\n", NO_BADGE + "\n", "\n", "Two"]
    stamp(folder, MINE)
    lines = json.loads(path.read_text())["cells"][0]["source"]
    assert [*lines[:3], *lines[4:]] == [
        "# One\n",
        "\n",
        BADGE_MARK + "\n",
        "\n",
        "Two",
    ] and "/me/course/" in lines[3]


def test_a_crash_while_writing_leaves_the_old_notebook(folder, monkeypatch):
    before = (folder / "01_one.ipynb").read_bytes()

    def crash(*names):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError):
        stamp(folder, MINE)
    assert [p.name for p in folder.iterdir()] == ["01_one.ipynb"] and (
        folder / "01_one.ipynb"
    ).read_bytes() == before


def test_permissions_and_links_survive(folder, tmp_path):
    path, link = folder / "01_one.ipynb", folder / "02_two.ipynb"
    path.chmod(0o640)
    link.symlink_to(path)
    stamp(folder, MINE)
    assert path.stat().st_mode & 0o777 == 0o640 and link.is_symlink()


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json"])
def test_a_file_that_is_no_notebook_is_named(folder, content):
    (folder / "02_two.ipynb").write_text(content)
    with pytest.raises(UserError) as error:
        stamp(folder, MINE)
    assert "02_two.ipynb" in one_sentence(error)


def command(*arguments, cwd):
    "python -m iris_edu.base.settings with these arguments."
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "iris_edu.base.settings", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
    )


def test_the_command_stamps_the_folder_beside_its_settings_file(folder):
    (folder.parent / "settings.ini").write_text("[iris_edu]\nrepository = me/course\n")
    check = command("--check", cwd=folder)
    assert check.returncode == 1 and "01_one.ipynb" in check.stdout
    assert command(cwd=folder).returncode == 0
    assert command("--check", cwd=folder.parent).returncode == 0
    assert "me/course" in (folder / "01_one.ipynb").read_text()


def test_the_command_says_what_is_wrong_without_a_traceback(tmp_path):
    (tmp_path / "settings.ini").write_text("[iris_edu]\nbranch = \n")
    done = command(cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


# The notebooks of the course


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_each_notebook_has_both_generated_cells(path):
    cells = json.loads(path.read_text())["cells"]
    text = {
        kind: ["".join(cell["source"]) for cell in cells if cell["cell_type"] == kind]
        for kind in ("markdown", "code")
    }
    assert sum(BADGE_MARK in source.splitlines() for source in text["markdown"]) == 1, (
        f"no line {BADGE_MARK}"
    )
    assert sum(source.startswith(SETUP_MARK) for source in text["code"]) == 1, (
        f"no cell starts with {SETUP_MARK!r}"
    )


def test_the_notebooks_agree_with_settings_ini():
    different = stamp(ROOT / "nbs", load_settings(ROOT / "settings.ini"), check=True)
    assert not different, "run python -m iris_edu.base.settings"
