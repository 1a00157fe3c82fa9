"""Configurations from files: every field's type and range, other formats, and whose code may run."""

import dataclasses
import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from iris_edu import checkpoint, run
from iris_edu.apps import cli
from iris_edu.base.settings import UserError
from iris_edu.base.typed import kinds_of
from iris_edu.checkpoint import FORMAT, Header
from iris_edu.config import (
    CHANGEABLE,
    FORMER,
    PRESETS,
    REGISTRY,
    Config,
    Parts,
    changes,
    check_trust,
    config_from_dict,
    config_to_dict,
    foreign,
    foreign_modules,
    make_environment,
    maker,
    resolve,
)
from iris_edu.run import RunFile, read_run, write_run

TINY = PRESETS["tiny"]


def leaves(cls=Config, path=()):
    "Every field of a configuration that holds no further ones: (names on the way, type)."
    for name, kind in kinds_of(cls).items():
        if dataclasses.is_dataclass(kind):
            yield from leaves(kind, (*path, name))
        else:
            yield (*path, name), kind


LEAVES = list(leaves())


def plain(kind):
    "The plain type behind an annotation."
    return (
        get_args(kind)[0]
        if get_args(kind) and not isinstance(kind, type(tuple[int, ...]))
        else kind
    )


def with_value(path, value):
    "A configuration as JSON with one value, named by the way to it, replaced."
    values = config_to_dict(TINY)
    table = values
    for name in path[:-1]:
        table = table[name]
    table[path[-1]] = value
    return values


def test_there_are_as_many_fields_as_options():
    assert len(LEAVES) > 80 and {path[0] for path, _ in LEAVES} >= {
        "env",
        "training",
        "parts",
        "seed",
    }


@pytest.mark.parametrize(
    "path, kind",
    LEAVES,
    ids=lambda x: (
        ".".join(x) if isinstance(x, tuple) and all(isinstance(i, str) for i in x) else ""
    ),
)
def test_every_field_refuses_what_it_is_not(path, kind):
    """null, a table, a list where there is none, numbers that are not finite, and a number for a
    word.
    """
    wrong = [None, {}, math.nan, math.inf, -math.inf]
    if plain(kind) in (int, float):
        wrong += ["1", "ten", True, [], -1e300, 10**400]
    if plain(kind) is int:
        wrong += [1.5, 2**64]
    if plain(kind) is bool:
        wrong += [0, 1, "yes"]
    if plain(kind) is str:
        wrong += [3, True, []]
    for value in wrong:
        with pytest.raises(UserError) as error:
            config_from_dict(with_value(path, value))
        assert path[-1] in str(error.value) and "\n" not in str(error.value), value


@pytest.mark.parametrize(
    "path, kind",
    LEAVES,
    ids=lambda x: (
        ".".join(x) if isinstance(x, tuple) and all(isinstance(i, str) for i in x) else ""
    ),
)
def test_a_missing_field_takes_its_default(path, kind):
    values = config_to_dict(Config())
    table = values
    for name in path[:-1]:
        table = table[name]
    del table[path[-1]]
    assert config_from_dict(values) == Config()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_go_through_a_file(preset, tmp_path):
    write_run(tmp_path, RunFile(PRESETS[preset], actions=4))
    assert read_run(tmp_path).config == PRESETS[preset]


@pytest.mark.parametrize("level", [(), ("env",), ("training",), ("parts",)])
def test_an_unknown_key_is_named_with_those_there_are(level):
    values = config_to_dict(TINY)
    table = values[level[0]] if level else values
    table["colour"] = "red"
    with pytest.raises(UserError, match="colour is unknown: it must be one of"):
        config_from_dict(values)


# --- parts


def test_every_registered_part_is_there():
    for part, names in REGISTRY.items():
        for path in filter(None, names.values()):
            assert callable(resolve(path)), path
        assert part == "execution" or getattr(Parts(), part) in names


def test_old_import_paths_are_short_names():
    for part in REGISTRY.keys() - {"execution"}:
        for short, path in REGISTRY[part].items():
            if path:
                assert getattr(Parts(**{part: path}), part) == short
    assert Config(execution="iris_edu.speed:Compiled").execution == "compiled"


@pytest.mark.parametrize("path, short", FORMER.items())
def test_import_paths_of_earlier_versions_are_short_names(path, short):
    part = next(part for part, names in REGISTRY.items() if short in names)
    values = {"execution": path} if part == "execution" else {"parts": {"perceptual_loss": path}}
    config = config_from_dict(values)
    name = config.execution if part == "execution" else config.parts.perceptual_loss
    assert name == short
    check_trust(config, "an old run")
    assert maker(config, part).__name__ == path.rpartition(":")[2]


def test_a_former_path_stands_for_no_other_part():
    path = "iris_edu.tokenizer:LPIPS"
    assert Parts(encoder=path).encoder == path


@pytest.mark.parametrize(
    "name",
    [
        "vq2",
        "",
        "os",
        ":",
        "os:",
        ":system",
        "a b:c",
        "os:system()",
        "../x:y",
        "iris_edu/tokenizer:Tokenizer",
    ],
)
def test_a_word_that_is_no_part_is_refused(name):
    with pytest.raises(UserError, match="parts.quantizer"):
        Parts(quantizer=name)


def test_a_part_of_one_slot_is_none_of_another():
    with pytest.raises(UserError, match="choose conv or patch"):
        Parts(encoder="lpips")


@pytest.mark.parametrize(
    "part, name, words",
    [
        ("tokenizer", "builtins:print", "made a NoneType and no Module"),
        ("policy", "builtins:dict", "could not be made .TypeError"),
        ("world_model", "json:dumps", "could not be made"),
        ("quantizer", "math:pi", "makes nothing"),
        ("quantizer", "math:tau2", "has no 'tau2'"),
        ("heads", "no_such_module:X", "cannot import"),
        ("attention", "collections:OrderedDict", "could not be made|no Module"),
    ],
)
def test_a_wrong_constructor_is_one_sentence(part, name, words):
    def made():
        return maker(replace(TINY, parts=replace(TINY.parts, **{part: name})), part)(1, 2, 3, 4, 5)

    with pytest.raises(UserError, match=words) as error:
        made()
    assert "\n" not in str(error.value)


def test_an_environment_that_cannot_be_made_says_where(tmp_path, monkeypatch):
    (tmp_path / "broken_env.py").write_text("def make(config, train):\n    return config.colour\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(
        UserError,
        match="parts.environment = 'broken_env:make' could not be made .AttributeError.* in broken_env.py, line 2",
    ):
        make_environment(replace(TINY, parts=replace(TINY.parts, environment="broken_env:make")))


# --- trust

FOREIGN = [
    ("parts", "quantizer"),
    ("parts", "environment"),
    ("parts", "token_sampler"),
    ("parts", "return_estimator"),
    ("execution",),
    ("env", "game"),
]


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    (tmp_path / "home" / ".iris_edu").mkdir(parents=True)
    return tmp_path / "home"


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: ".".join(path))
def test_code_from_outside_waits_for_a_word(path, home):
    theirs = config_from_dict(with_value(path, "evil.part:Thing"))
    assert foreign(theirs) == [(".".join(path), "evil.part:Thing")] and foreign_modules(theirs) == (
        "evil.part",
    )
    for trust in ((), ("ev",), ("evil.part2",), ("part",), ("iris_edu",)):
        with pytest.raises(UserError, match="--trust evil.part"):
            check_trust(theirs, "x", trust)
    for trust in (("evil.part",), ("evil",), ("a", "evil.part")):
        check_trust(theirs, "x", trust)
    listed = home / ".iris_edu" / "trusted.txt"
    for text in ("# evil.part is bad", "# a\u2028evil.part", "not evil.part", "evil.part, x"):
        listed.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match="--trust evil.part"):
            check_trust(theirs, "x")
    listed.write_text("# mine\n\nevil.part\n")
    check_trust(theirs, "x")


def test_callbacks_wait_too(home):
    theirs = config_from_dict(with_value(("parts", "callbacks"), ["a:B", "c:D"]))
    with pytest.raises(UserError, match="'c'"):
        check_trust(theirs, "x", ("a",))
    check_trust(theirs, "x", ("a", "c"))


@pytest.mark.parametrize(
    "name",
    [
        "iris_edu.training:os",
        "iris_edu.apps.cli:main",
        "iris_edu.run:subprocess",
        "iris_edu.base.files:atomic_write",
    ],
)
def test_a_module_of_ours_is_no_back_door(name):
    with pytest.raises(UserError, match="--trust iris_edu"):
        check_trust(config_from_dict(with_value(("parts", "quantizer"), name)), "x")


@pytest.fixture
def theirs(tmp_path, home, monkeypatch):
    """A folder with a run of somebody else, beside a module that leaves a mark when it is imported.

    The working directory.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text("open('mark', 'w')\n")
    folder = tmp_path / "their-run"
    folder.mkdir()
    return folder


COMMANDS = [
    "evaluate RUN --episodes 1",
    "report RUN",
    "play RUN --no-browser",
    "watch RUN --once",
    "score RUN",
]


@pytest.mark.parametrize("path", FOREIGN, ids=lambda path: ".".join(path))
@pytest.mark.parametrize("line", COMMANDS)
def test_no_command_runs_code_that_a_folder_names(theirs, line, path, capsys):
    (theirs / "config.json").write_text(
        json.dumps({"config": with_value(path, "evil:Thing"), "versions": {}})
    )
    assert cli.main([str(theirs) if word == "RUN" else word for word in line.split()]) == 2
    error = capsys.readouterr().err
    assert (
        "--trust evil" in error
        and error.count("\n") == 1
        and not Path("mark").exists()
        and "evil" not in sys.modules
    )


def test_training_does_not_run_what_only_the_folder_names(theirs, capsys):
    "The command line asks for parts of ours; the folder names others."
    (theirs / "config.json").write_text(
        json.dumps({"version": 2, "config": with_value(("parts", "callbacks"), ["evil:Thing"])})
    )
    checkpoint.save_checkpoint(theirs, {}, Header(TINY, 3, epoch=1))
    assert cli.main(["train", "--preset", "tiny", "--run-dir", str(theirs)]) == 2
    assert "--trust evil" in capsys.readouterr().err and not Path("mark").exists()


def test_a_checkpoint_is_no_back_door_either(theirs, capsys):
    checkpoint.write_checkpoint(
        theirs / "agent.safetensors",
        {},
        Header(config_from_dict(with_value(("parts", "quantizer"), "evil:Thing")), 3, epoch=1),
    )
    for line in (
        f"evaluate {theirs}/agent.safetensors",
        f"report {theirs}/agent.safetensors",
        f"watch {theirs}/agent.safetensors --once",
    ):
        assert cli.main(line.split()) == 2 and "--trust evil" in capsys.readouterr().err
    assert not Path("mark").exists()


def test_a_word_opens_the_door(theirs, capsys):
    (theirs / "config.json").write_text(
        json.dumps({"config": with_value(("parts", "callbacks"), ["evil:Thing"])})
    )
    assert cli.main(["watch", str(theirs), "--once", "--trust", "evil"]) == 0
    (Path.home() / ".iris_edu" / "trusted.txt").write_text("evil")
    assert cli.main(["watch", str(theirs), "--once"]) == 0


def test_modules_of_the_working_directory_do_not_stand_before_installed_ones(tmp_path):
    for name in ("matplotlib", "tqdm", "tyro", "ipywidgets", "einops"):
        (tmp_path / f"{name}.py").write_text("open('mark', 'w')\n")
    (tmp_path / "mine.py").write_text("print('mine is found')\ndef Thing(*x): return None\n")
    words = "train --preset tiny --game Catch --training.epochs 1 --training.collect-steps 3 --run-dir r --heads mine:Thing".split()
    command = Path(sys.executable).with_name("iris-edu")
    done = subprocess.run([command, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (
        "mine is found" in done.stdout
        and "made a NoneType" in done.stderr
        and not (tmp_path / "mark").exists()
    )


# --- formats


def test_a_newer_format_says_so(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"version": FORMAT + 1, "config": {"future": 1}})
    )
    with pytest.raises(
        UserError,
        match="newer version of iris_edu wrote .*config.json, in format 3.*pip install -U",
    ):
        read_run(tmp_path)


def test_what_a_run_notes_comes_back(tmp_path):
    written = RunFile(
        TINY,
        actions=6,
        versions={"torch": "2"},
        changes=(run.Change(3, "training.learning_rate", 1e-3, 1e-4),),
        left_out=(2,),
    )
    write_run(tmp_path, written)
    assert read_run(tmp_path) == replace(written, version=FORMAT)


# --- what may change


def test_changeable_options_exist():
    assert CHANGEABLE <= {".".join(path) for path, _ in LEAVES}


OTHER = {int: lambda x: x + 16, float: lambda x: x / 2 + 0.125, bool: lambda x: not x}


@pytest.mark.parametrize(
    "path, kind",
    [leaf for leaf in LEAVES if plain(leaf[1]) in OTHER],
    ids=lambda x: (
        ".".join(x) if isinstance(x, tuple) and all(isinstance(i, str) for i in x) else ""
    ),
)
def test_only_what_cannot_change_the_past_may_change(path, kind):
    "Every number of a configuration is changed, alone where that is possible."
    value = TINY
    for name in path:
        value = getattr(value, name)
    try:
        other = config_from_dict(with_value(path, OTHER[plain(kind)](value)))
    except UserError:
        return  # sizes that must fit one another
    if ".".join(path) in CHANGEABLE:
        assert list(changes(TINY, other, 3, "run")) == [".".join(path)]
    else:
        with pytest.raises(UserError, match=f"started with {'.'.join(path)} = "):
            changes(TINY, other, 3, "run")


def test_epochs_grow_but_not_below_what_is_done():
    def with_epochs(n):
        return replace(TINY, training=replace(TINY.training, epochs=n))

    assert changes(TINY, with_epochs(20), 14, "run") == {"training.epochs": (14, 20)}
    with pytest.raises(UserError, match="has done 14 epochs"):
        changes(TINY, with_epochs(13), 14, "run")
