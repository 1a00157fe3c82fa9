"""Types, ranges and readers: what appendices A12 and A13 do not show."""

import dataclasses
import errno
import json
import math
import os
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iris_edu.base import files
from iris_edu.base.files import (
    because,
    read_arrays,
    read_json,
    read_json_lines,
    sum_of,
    sweep,
    write_arrays,
)
from iris_edu.base.settings import UserError
from iris_edu.base.typed import (
    AnyFloat,
    Count,
    Decay,
    Device,
    Maybe,
    Positive,
    Seed,
    Share,
    Whole,
    at_least,
    check_fields,
    from_json,
    one_of,
    typed,
)


@dataclass(frozen=True)
class Inner:
    share: Share = 0.5
    sizes: tuple[Count, ...] = (1,)


@dataclass(frozen=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    rate: Positive = 0.1
    limit: Count | None = None
    kind: Annotated[str, one_of("a", "b")] = "a"
    mode: Literal["x", "y"] = "x"
    table: dict[str, list[float]] = field(default_factory=dict)
    pair: tuple[int, float] = (1, 2.0)
    flag: bool = False
    note: Maybe = ""


def one_line(error):
    "The sentence of a UserError, which is one line and not the representation of a whole file."
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
    return str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        dict(name="n"),
        dict(name="n", rate=1),
        dict(name="n", limit=3),
        dict(name="n", limit=None),
        dict(name="n", inner={"share": 1}),
        dict(name="n", table={"Pong": [1, 2.5]}),
        dict(name="n", pair=[1, 2]),
        dict(name="n", kind="b", mode="y", flag=True, note=""),
    ],
)
def test_good_values_come_back(values):
    made = from_json(values, Outer)
    assert from_json(json.loads(json.dumps(dataclasses.asdict(made))), Outer) == made
    assert all(isinstance(value, float) for value in (made.rate, made.pair[1], made.inner.share))


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(name=""), "name is '': it must be a text that is not empty"),
        (dict(name=3), "name is 3: it must be a text"),
        (dict(name=None), "it must be a text"),
        (dict(rate=0), "rate is 0: it must be greater than 0"),
        (dict(rate=math.nan), "finite"),
        (dict(rate=math.inf), "finite"),
        (dict(rate="1"), "a number"),
        (dict(rate=True), "a number"),
        (dict(rate=10**400), "63 bits"),
        (dict(limit=0), "at least 1"),
        (dict(limit=1.5), "whole number"),
        (dict(limit=True), "whole number"),
        (dict(limit=2**70), "63 bits"),
        (dict(inner=5), "inner is 5: it must be a table"),
        (dict(inner={"share": 2}), "inner.share is 2: it must be between 0 and 1"),
        (dict(inner={"sizes": [1, 0]}), "inner.sizes[1] is 0"),
        (dict(inner={"sizes": 3}), "it must be a list"),
        (dict(inner={"colour": 1}), "inner.colour is unknown"),
        (dict(kind="c"), "one of a, b"),
        (dict(mode="z"), "one of x, y"),
        (dict(table=[]), "a table"),
        (dict(table={"Pong": 1}), "table.Pong is 1: it must be a list"),
        (dict(table={"Pong": ["x"]}), "table.Pong[0]"),
        (dict(pair=[1]), "a list of 2"),
        (dict(pair=[1.5, 2]), "whole"),
        (dict(flag=1), "true or false"),
        (dict(flag="no"), "true or false"),
        (dict(colour=1), "colour is unknown: it must be one of name, inner"),
        (dict(note=3), "a text"),
    ],
)
def test_wrong_values_are_one_sentence(change, words):
    with pytest.raises(UserError) as error:
        from_json(dict(name="n") | change, Outer)
    assert words in one_line(error)


def test_a_key_without_a_default_is_missed():
    with pytest.raises(UserError, match="name is missing"):
        from_json({}, Outer)
    with pytest.raises(UserError, match="its content is 3: it must be a table"):
        from_json(3, Outer)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda x: (
        st.lists(x, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [f.name for f in dataclasses.fields(Outer)] + ["share", "sizes", "Pong"]
            ),
            x,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_anything_is_a_value_or_one_sentence(values):
    try:
        made = from_json(values, Outer)
    except UserError as error:
        assert "\n" not in str(error)
    else:
        check_fields(made, "")


@pytest.mark.parametrize(
    "kind, good, bad",
    [
        (Count, (1, 2**62), (0, -1, 1.0)),
        (Whole, (0,), (-1,)),
        (Seed, (0, 2**63 - 1), (-1, 2**63)),
        (Share, (0, 1, 0.5), (-0.1, 1.1)),
        (Decay, (0, 0.999), (1, -0.1)),
        (
            Device,
            ("auto", "cpu", "cuda", "cuda:0", "cuda:12"),
            ("", "cpu:0", "cpu:x", "cuda:", "cuda:-1", "mps", "meta", "tpu", "CPU"),
        ),
        (AnyFloat, (math.nan, math.inf, 0), ("x", None, 10**400)),
        (Annotated[int, at_least(8)], (8,), (7,)),
    ],
)
def test_the_ends_of_each_range(kind, good, bad):
    for value in good:
        assert typed(value, kind, "x") == value or value != value
    for value in bad:
        with pytest.raises(UserError):
            typed(value, kind, "x")


# --- files

CODES = list(files.REASONS)


def test_every_failure_of_the_system_has_its_own_sentence():
    sentences = {code: because(OSError(code, os.strerror(code))) for code in CODES}
    assert len(set(sentences.values())) == len(CODES) - 1  # EACCES and EPERM are the same to a user
    assert all(":" in sentence for sentence in sentences.values())
    assert "check the path" in because(OSError(errno.ELOOP, "Too many levels")) and because(
        OSError("odd")
    )


def test_no_inodes_is_not_a_full_disk(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    assert "disk is full" in because(full, "some/file")
    monkeypatch.setattr(
        os, "statvfs", lambda folder: type("Found", (), dict(f_files=10, f_favail=0))
    )
    assert "inodes" in because(full, "some/file")


@pytest.mark.parametrize(
    "read",
    [
        lambda path: read_json(path, dict[str, int]),
        lambda path: read_json_lines(path, dict[str, int]),
        lambda path: files.read_text(path),
    ],
)
def test_what_cannot_be_opened_is_named(tmp_path, read):
    for path, words in (
        (tmp_path / "no", "no such file"),
        (tmp_path, "it is a folder"),
        (tmp_path / ("x" * 300), "too long"),
        (tmp_path / "f" / "x", "no folder"),
    ):
        (tmp_path / "f").write_text("")
        with pytest.raises(UserError) as error:
            read(path)
        assert words in one_line(error) and str(path) in str(error.value)


def test_a_pipe_does_not_hang_a_reader(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no ordinary file"):
        files.read_bytes(tmp_path / "pipe")


def test_a_file_beyond_its_limit_is_not_read(tmp_path):
    (tmp_path / "big").write_bytes(b"0" * 1001)
    with pytest.raises(UserError, match="larger than"):
        files.read_bytes(tmp_path / "big", limit=1000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b'{"a": ' * 5000,
        b"\xff",
        b"null",
        b'{"a": 1e999}',
        b'{"a": NaN}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": "\\ud800"}',
        b"[" * 900 + b"]" * 900,
    ],
)
def test_no_json_is_too_odd(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="is damaged.*: do this") as error:
        read_json(tmp_path / "x.json", dict[str, int], mend="do this")
    one_line(error)


def test_json_is_utf8_whatever_the_locale(tmp_path, monkeypatch):
    files.write_json(tmp_path / "x.json", {"ä": "ж"})
    monkeypatch.setattr("locale.getpreferredencoding", lambda *args: "ascii")
    assert read_json(tmp_path / "x.json", dict[str, str]) == {"ä": "ж"}
    with pytest.raises(UserError, match="not finite"):
        files.write_json(tmp_path / "x.json", {"a": math.nan})
    assert read_json(tmp_path / "x.json", dict[str, str]) == {"ä": "ж"}


def test_killed_writers_are_swept_and_nothing_else(tmp_path):
    (tmp_path / "replay").mkdir()
    # the last as older versions wrote it
    left = [
        ".checkpoint.next.safetensors.0123abcd.tmp",
        "replay/.epoch_0001.npz.0123abcd.tmp",
        ".metrics.jsonl.89abcdef",
    ]
    stay = [".lock", ".notes.txt.0123abcd.tmp", "checkpoint.safetensors", ".checkpoint.safetensors"]
    for name in left + stay:
        (tmp_path / name).write_bytes(b"x")
    sweep(tmp_path, "metrics.jsonl", "checkpoint.*", "epoch_*")
    assert sorted(
        str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()
    ) == sorted(stay)


def test_a_long_name_that_the_system_takes_is_written(tmp_path):
    files.atomic_write(tmp_path / ("x" * 250), b"content")
    with pytest.raises(UserError, match="name is too long"):
        files.atomic_write(tmp_path / ("x" * 256), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["x" * 250]


def test_the_folder_is_pushed_to_the_disk_after_the_rename(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr(
        os, "replace", lambda *names, rename=os.replace: done.append("rename") or rename(*names)
    )
    monkeypatch.setattr(files, "sync_folder", lambda folder: done.append(folder))
    files.atomic_write(tmp_path / "one", b"x")
    assert done == ["rename", tmp_path]


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([True, False]),
    "c": np.array(5),
}


def test_arrays_come_back(tmp_path):
    write_arrays(tmp_path / "x.npz", ARRAYS)
    found = read_arrays(tmp_path / "x.npz")
    assert found.keys() == ARRAYS.keys() and all(
        np.array_equal(found[k], ARRAYS[k]) and found[k].dtype == ARRAYS[k].dtype for k in ARRAYS
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a["a"].__setitem__((0, 0), 7),
        lambda a: a.pop("b"),
        lambda a: a.update(d=np.zeros(1)),
        lambda a: a.update(a=a["a"].T.copy()),
        lambda a: a.update(a=a["a"].astype(np.float64)),
        lambda a: a.update(sha256=np.zeros(32, np.uint8)),
        lambda a: a.update(sha256=np.zeros((), "U3")),
    ],
)
def test_a_changed_array_does_not_give_the_sum(tmp_path, change):
    write_arrays(tmp_path / "x.npz", ARRAYS)
    with np.load(tmp_path / "x.npz") as file:
        held = {name: file[name].copy() for name in file.files}
    change(held)
    np.savez(tmp_path / "x.npz", **held)
    with pytest.raises(UserError, match="sum"):
        read_arrays(tmp_path / "x.npz")


def test_a_header_that_claims_too_much_is_refused_before_memory_is_asked_for(tmp_path):
    header = (
        b"\x93NUMPY\x01\x00v\x00"
        + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(117)
        + b"\n"
    )
    import zipfile

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as file:
        file.writestr("a.npy", header + b"\0" * 80)
    with pytest.raises(UserError, match="shorter or longer than it says"):
        read_arrays(tmp_path / "bomb.npz")
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", b"\0" * 10**7)
    with pytest.raises(UserError, match="larger than"):
        read_arrays(tmp_path / "bomb.npz", limit=10**6)


def test_objects_in_arrays_are_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.array([print], object))
    with pytest.raises(UserError, match="Python objects"):
        read_arrays(tmp_path / "x.npz")
    assert sum_of(ARRAYS) != sum_of(ARRAYS | {"c": np.array(6)})


def test_no_reader_waits_for_a_pipe(tmp_path):
    from iris_edu.checkpoint import read_checkpoint
    from iris_edu.perceptual import load_vgg16

    os.mkfifo(tmp_path / "pipe.npz")
    for read in (read_arrays, read_checkpoint, load_vgg16):
        with pytest.raises(UserError, match="no ordinary file|no file with"):
            read(tmp_path / "pipe.npz")
