"""Plots: what the appendix does not show."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from iris_edu.base import plots
from iris_edu.base.plots import (
    COLOURS,
    agent_map,
    plot_curves,
    plot_intervals,
    show_frames,
    show_tokens,
    strip,
    to_uint8,
)
from iris_edu.base.settings import UserError

ROOT = Path(__file__).resolve().parent.parent
FRAMES = np.random.default_rng(0).integers(0, 256, (5, 16, 12, 3), np.uint8)


def png(figure):
    "The figure as an RGB array."
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 3), max_size=3),
    st.integers(4, 9),
    st.integers(4, 9),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_to_uint8_gives_the_same_picture_for_every_form(
    lead, height, width, as_torch, as_float, channels_first
):
    frames = np.random.default_rng(0).integers(0, 256, (*lead, height, width, 3), np.uint8)
    other = frames.astype(np.float32) / 255 if as_float else frames
    other = np.moveaxis(other, -1, -3) if channels_first else other
    other = torch.tensor(np.ascontiguousarray(other)) if as_torch else other
    result = to_uint8(other)
    assert result.dtype == np.uint8 and np.array_equal(result, frames)


def test_to_uint8_copes_with_grey_bool_and_bad_numbers():
    grey = to_uint8(np.array([[[0.0], [0.5]], [[1.2], [np.nan]]]))
    assert grey.shape == (2, 2, 3) and grey[..., 0].tolist() == [[0, 128], [255, 0]]
    assert to_uint8(np.ones((2, 4, 4, 3), bool)).min() == 255
    assert to_uint8(np.full((4, 4, 3), 300)).max() == 255
    assert to_uint8(np.zeros((0, 8, 8, 3))).shape == (0, 8, 8, 3)
    assert to_uint8(torch.rand(3, 8, 8, dtype=torch.float64)).shape == (8, 8, 3)


def test_to_uint8_does_not_touch_what_it_is_given():
    frames = FRAMES.copy()
    to_uint8(frames)
    strip(frames)
    show_frames(frames)
    show_tokens(frames, np.zeros((5, 16), int))
    assert np.array_equal(frames, FRAMES)


@pytest.mark.parametrize(
    "rows, count",
    [
        (FRAMES[0], (1, 1)),
        (FRAMES, (5, 1)),
        (list(FRAMES), (5, 1)),
        ([FRAMES, FRAMES[:2]], (5, 2)),
        (np.stack([FRAMES, FRAMES]), (5, 2)),
        ([list(FRAMES[:3])], (3, 1)),
    ],
)
def test_strip_takes_one_frame_a_row_or_rows(rows, count):
    image = strip(rows, scale=3, gap=1)
    assert image.size == (count[0] * (36 + 1) - 1, count[1] * (48 + 1) - 1)
    assert np.array_equal(np.asarray(image)[:48:3, :36:3], FRAMES[0])


@pytest.mark.parametrize("rows", [[], np.zeros((8, 8)), np.zeros((1, 1, 1, 8, 8, 3))])
def test_strip_refuses_what_is_no_picture(rows):
    with pytest.raises(UserError):
        strip(rows)


def test_frames_of_different_sizes_can_share_a_figure():
    large = np.zeros((3, 32, 32, 3), np.uint8)
    assert strip([FRAMES, large]).size[1] == 32 + 64 + 2
    assert len(show_frames([FRAMES, large]).axes[0].images) == 8


def test_labels_may_be_fewer_than_rows_and_no_strings():
    texts = [
        t.get_text() for t in show_frames([FRAMES, FRAMES], ["real"], titles=range(5)).axes[0].texts
    ]
    assert texts == ["real", "0", "1", "2", "3", "4"]


def test_tokens_in_either_form_and_a_wrong_number():
    codes = torch.arange(80).view(5, 16)

    def texts(fig):
        return [t.get_text() for t in fig.axes[0].texts]

    assert (
        texts(show_tokens(FRAMES, codes))
        == texts(show_tokens(FRAMES, codes.view(5, 4, 4)))
        == [str(n) for n in range(80)]
    )
    with pytest.raises(UserError, match="square"):
        show_tokens(FRAMES, codes[:, :15])


def test_curves_of_every_form():
    fig = plot_curves(
        {
            "real": [1, 2, 3],
            "pair": ([0, 10], [1, 2]),
            "tensor": torch.rand(4, requires_grad=True),
            "one": [5.0],
        },
        "step",
        "loss",
        logy=True,
    )
    lines = {line.get_label(): line for line in fig.axes[0].lines}
    assert lines["real"].get_color() == COLOURS["real"] and list(lines["pair"].get_xdata()) == [
        0,
        10,
    ]
    assert len({line.get_color() for line in lines.values()}) == 4
    assert (
        fig.axes[0].get_xlabel() == "step"
        and fig.axes[0].get_ylabel() == "loss"
        and fig.axes[0].get_yscale() == "log"
    )
    assert png(fig).std() > 0


def test_more_curves_than_colours_and_none():
    assert len(plot_curves({str(i): [i, i] for i in range(12)}, "x", "y").axes[0].lines) == 12
    assert not plot_curves({}, "x", "y").axes[0].lines


def test_a_pair_of_numbers_is_a_curve_of_two_values():
    assert list(plot_curves({"a": (3, 4)}, "x", "y").axes[0].lines[0].get_ydata()) == [3, 4]


def test_bands_and_intervals():
    banded = plot_curves({"a": [1, 2], "b": [3, 4]}, "x", "y", bands={"a": ([0, 1], [2, 3])})
    assert len(banded.axes[0].collections) == 1
    panels = {
        "mean": {"A": (0.5, 0.4, 0.7), "B": (1.0, 0.9, 1.2)},
        "median": {"B": (2, 1, 3), "A": (0, 0, 0)},
    }
    mean, median = plot_intervals(panels).axes
    assert [(bar.get_x(), round(bar.get_width(), 9)) for bar in mean.patches] == [
        (0.4, 0.3),
        (0.9, 0.3),
    ]
    # the names of the first panel set the order
    assert [line.get_xdata()[0] for line in median.lines] == [0, 2]
    assert [text.get_text() for text in mean.get_yticklabels()] == ["A", "B"]


@pytest.mark.parametrize("lit", plots._PARTS)
def test_the_map_lights_one_part(lit):
    from matplotlib.colors import to_rgb

    picture, fills = (
        png(agent_map(lit)),
        {part: to_rgb(plots._ink(part, part)["fill"]) for part in plots._PARTS},
    )
    assert picture.shape == (288, 810, 3)
    seen = {
        part
        for part, fill in fills.items()
        if (abs(picture - 255 * np.array(fill)).max(-1) < 1.5).mean() > 0.01
    }
    assert seen == {part for part in fills if fills[part] == fills[lit]}


def test_figures_are_closed_and_small():
    import matplotlib.pyplot as plt

    for figure in (
        agent_map(),
        show_frames(FRAMES),
        show_tokens(FRAMES, np.zeros((5, 16), int)),
        plot_curves({"a": [1]}, "x", "y"),
        plot_intervals({"a": {"b": (1, 0, 2)}}),
    ):
        file = io.BytesIO()
        figure.savefig(file, format="png")
        assert file.tell() < 60_000
    assert not plt.get_fignums()


def test_without_matplotlib_strips_work_and_figures_say_what_to_install():
    code = """
import sys; sys.modules["matplotlib"] = None
import numpy as np
from iris_edu.base import plots
from iris_edu.base.settings import UserError
assert "torch" not in sys.modules
plots.strip(np.zeros((2, 8, 8, 3)))
for draw in (plots.agent_map, lambda: plots.show_frames(np.zeros((2, 8, 8, 3))), lambda: plots.plot_curves({}, "x", "y")):
    try: draw()
    except UserError as error: assert "pip install 'iris-edu[notebook]'" in str(error)
    else: raise SystemExit("no error")
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
