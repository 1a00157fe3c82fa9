"The toolkit, tokens, predictions and attention: the functions, and the views without a browser."

import math

import foreign_parts
import ipywidgets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from iris_edu.agent import load_trained
from iris_edu.base.settings import UserError
from iris_edu.course.contracts import (
    check_heads,
    check_segment_sampler,
    check_tokenizer,
    check_world_model,
)
from iris_edu.envs import EnvConfig, make_env
from iris_edu.imagination import CategoricalSampler, ImaginationConfig
from iris_edu.recordings import record
from iris_edu.transformer import CausalAttention, TransformerConfig
from iris_edu.views.attention import (
    FrameAttention,
    OpenAttention,
    attention_weights,
    by_frame,
    miniatures,
    with_means,
)
from iris_edu.views.dashboard import Dashboard
from iris_edu.views.gallery import Gallery, View, action_names, recorded_frames
from iris_edu.views.next_token import (
    NextToken,
    colours,
    dreamt_tokens,
    entropy,
    heated,
    next_logits,
    percent,
    read_page,
    rescale,
)
from iris_edu.views.tokens import Codebook, TokenEditor, code_usage, nearest_codes, occurrences
from iris_edu.world_model import WorldModel, WorldModelConfig

NAMES = "left", "stay", "right"


@pytest.fixture(scope="module")
def trained():
    return load_trained("catch-small")


@pytest.fixture(scope="module")
def games():
    draw = np.random.default_rng(0)
    return record(make_env(EnvConfig("Catch", size=32)), lambda frame: draw.integers(3), 200)


@pytest.fixture
def page(trained, games):
    return read_page(trained.tokenizer, games, 20)


def small(steps=4, layers=2, heads=2, tokens=4, attention=CausalAttention):
    torch.manual_seed(0)
    config = TransformerConfig(layers=layers, heads=heads, width=16, init_std=0.5)
    return WorldModel(
        WorldModelConfig(steps=steps),
        config,
        vocabulary=11,
        actions=3,
        tokens_per_frame=tokens,
        attention=attention,
    ).eval()


def sentence(steps=4, tokens=4):
    draw = torch.Generator().manual_seed(0)
    return torch.randint(11, (steps, tokens), generator=draw), torch.randint(
        3, (steps - 1,), generator=draw
    )


def test_a_page_stays_in_its_game(trained, games):
    for frame in range(len(games) - 1):
        if frame + 1 in games.starts:
            continue
        page = read_page(trained.tokenizer, games, frame)
        assert page.numbers[-1] == frame + 1 and not set(page.numbers[1:]) & set(games.starts)
        assert len(page.tokens) == len(page.frames) == len(page.actions) + 1 <= 4
        if frame > 30:
            break


def test_the_end_of_a_game_is_a_sentence(trained, games):
    for frame in (int(games.starts[1]) - 1, len(games) - 1):
        with pytest.raises(UserError, match="last of its game"):
            read_page(trained.tokenizer, games, frame)


@pytest.mark.parametrize("steps", [2, 3, 4])
def test_next_logits_equal_one_pass(steps):
    model, (tokens, actions) = small(), sentence(steps)
    with torch.no_grad():
        at_once = model(tokens[None], F.pad(actions, (0, 1))[None])[0][0]
    torch.testing.assert_close(
        next_logits(model, tokens, actions), at_once[-5:-1], atol=1e-5, rtol=1e-5
    )


def test_next_logits_do_not_see_their_own_word():
    model, (tokens, actions) = small(), sentence()
    changed = tokens.clone()
    changed[-1, 2] = (changed[-1, 2] + 1) % 11
    before, after = (next_logits(model, t, actions) for t in (tokens, changed))
    assert torch.equal(before[:3], after[:3]) and not torch.equal(before[3], after[3])


def test_dreamt_tokens_replace_the_last_frame_only():
    model, (tokens, actions) = small(), sentence()
    dreams = [
        dreamt_tokens(
            model,
            tokens,
            actions,
            CategoricalSampler(ImaginationConfig(temperature=9.0)),
            torch.Generator().manual_seed(seed),
        )
        for seed in (0, 0, 1)
    ]
    assert all(
        torch.equal(dream[:-1], tokens[:-1]) and dream.shape == tokens.shape for dream in dreams
    )
    assert torch.equal(dreams[0], dreams[1]) and not torch.equal(dreams[0], dreams[2])


@pytest.mark.parametrize("temperature, top_k", [(1.0, 0), (0.5, 0), (3.0, 4), (1.0, 1), (1.0, 50)])
def test_rescale_is_what_the_sampler_draws_from(temperature, top_k):
    logits = torch.randn(11, generator=torch.Generator().manual_seed(3)) * 2
    sampler = CategoricalSampler(ImaginationConfig(temperature=temperature, top_k=top_k))
    drawn = (
        sampler(logits.expand(40_000, -1), torch.Generator().manual_seed(0)).bincount(minlength=11)
        / 40_000
    )
    expected = rescale(logits, temperature, top_k)
    assert (drawn - expected).abs().max() < 0.01 and (drawn[expected == 0] == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 40), st.floats(0.1, 5), st.integers(0, 50), st.integers(0, 2**31))
def test_rescaled_logits_are_a_distribution(count, temperature, top_k, seed):
    chances = rescale(
        torch.randn(3, count, generator=torch.Generator().manual_seed(seed)) * 5, temperature, top_k
    )
    assert torch.allclose(chances.sum(-1), torch.ones(3), atol=1e-5)
    assert (entropy(chances) <= math.log2(count) + 1e-4).all() and (entropy(chances) >= 0).all()
    if top_k:
        assert ((chances > 0).sum(-1) <= top_k).all()


@pytest.mark.parametrize("layers, heads", [(1, 1), (2, 4), (3, 2)])
def test_weights_are_those_that_the_model_uses(layers, heads):
    model, (tokens, actions) = small(layers=layers, heads=heads), sentence()
    weights = attention_weights(model, tokens, actions)
    assert weights.shape == (layers, heads, 19, 19)
    assert (
        torch.allclose(weights.sum(-1), torch.ones(weights.shape[:-1]), atol=1e-5)
        and not weights.triu(1).any()
    )
    heard, x = {}, model.layout.interleave(tokens[None], actions[None])
    for n, block in enumerate(model.transformer.blocks):
        block.attention.register_forward_hook(
            lambda part, given, result, n=n: heard.__setitem__(n, (given[0], result[0]))
        )
    with torch.no_grad():
        model.transformer(x)
    # the values come from the cache, which every attention part fills
    for n, block in enumerate(model.transformer.blocks):
        given, result = heard[n]
        with torch.no_grad():
            values = block.attention(given, block.attention.empty_cache(1, 19))[1].values
        mixed = (weights[n] @ values[0]).transpose(0, 1).flatten(1)
        torch.testing.assert_close(block.attention.out(mixed), result[0], atol=1e-5, rtol=1e-5)


def test_listening_changes_nothing():
    model, (tokens, actions) = small(), sentence()
    with torch.no_grad():
        before = model(tokens[None], F.pad(actions, (0, 1))[None])[0]
        with OpenAttention() as heard:
            openly = model(tokens[None], F.pad(actions, (0, 1))[None])[0]
        after = model(tokens[None], F.pad(actions, (0, 1))[None])[0]
    assert torch.equal(before, after) and len(heard.weights) == 2
    torch.testing.assert_close(openly, before, atol=1e-5, rtol=1e-5)


def test_masks_and_scales_are_understood():
    q, k, v = torch.randn(3, 1, 2, 5, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    hidden = torch.ones(5, 5, dtype=torch.bool).tril()
    added = torch.zeros(5, 5).masked_fill(~hidden, -torch.inf)
    for options in (
        {},
        {"is_causal": True},
        {"attn_mask": hidden},
        {"attn_mask": added, "scale": 0.1},
    ):
        with OpenAttention():
            openly = F.scaled_dot_product_attention(q, k, v, **options)
        torch.testing.assert_close(
            openly, F.scaled_dot_product_attention(q, k, v, **options), atol=1e-5, rtol=1e-5
        )


class Fused(nn.Module):
    "Another attention part: one layer for queries, keys and values."

    def __init__(self, config):
        super().__init__()
        self.heads, self.all, self.out = (
            config.heads,
            nn.Linear(config.width, 3 * config.width),
            nn.Linear(config.width, config.width),
        )

    def forward(self, x, layer_cache=None):
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.all(x).chunk(3, -1)
        )
        return self.out(
            F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        ), layer_cache


class Blind(nn.Module):
    "An attention part without weights."

    def __init__(self, config):
        super().__init__()

    def forward(self, x, layer_cache=None):
        return x.cumsum(1), layer_cache


def test_another_attention_part_can_be_read_too():
    weights = attention_weights(small(attention=Fused), *sentence())
    assert weights.shape == (2, 2, 19, 19) and torch.allclose(
        weights.sum(-1), torch.ones(2, 2, 19), atol=1e-5
    )


def test_what_has_no_weights_says_so():
    with pytest.raises(UserError, match="Blind does not call"):
        attention_weights(small(attention=Blind), *sentence())
    with pytest.raises(UserError, match="Linear has no Transformer"):
        attention_weights(nn.Linear(2, 2), *sentence())


def test_weights_by_frame_lose_nothing():
    weights = attention_weights(small(), *sentence())
    frames, actions = by_frame(weights, 4)
    assert frames.shape == (2, 2, 19, 4, 4) and actions.shape == (2, 2, 19, 3)
    assert torch.allclose(frames.sum((-1, -2)) + actions.sum(-1), torch.ones(2, 2, 19), atol=1e-5)
    assert torch.equal(actions[0, 0, 9], weights[0, 0, 9, [4, 9, 14]])
    means = with_means(weights)
    assert means.shape == (3, 3, 19, 19)
    torch.testing.assert_close(means[-1, -1], weights.mean((0, 1)))
    assert miniatures(weights[:, 0, 18], 4, 2).shape == (2, 3, 2, 4 * 3 - 1)


def test_colours_grow_lighter():
    assert (colours(torch.linspace(0, 1, 100)).mean(-1).diff() > 0).all()
    frames = heated(torch.zeros(2, 3, 8, 8), torch.eye(4)[:2], 2)
    assert (
        frames.shape == (2, 3, 8, 8)
        and frames[0, :, 0, 0].mean() > frames[0, :, 0, 7].mean()
        and frames[1, :, 0, 7].mean() > frames[1, :, 7, 7].mean()
    )


def test_words_for_numbers_and_actions():
    assert [percent(x) for x in (0, 0.004, 0.014, 1)] == ["0%", "<1%", "1%", "100%"]
    assert action_names(load_trained("catch-small").config) == ["left", "stay", "right"]
    assert action_names(load_trained("pong-dream").config)[:4] == ["noop", "fire", "right", "left"]


def galleries(widget):
    "All galleries inside a widget."
    if isinstance(widget, Gallery):
        return [widget]
    return [gallery for child in getattr(widget, "children", ()) for gallery in galleries(child)]


def test_next_token(trained, games):
    view = NextToken(trained, games, start=20, frames=100, names=NAMES)
    assert "After frame 20" in view.voice.status and view.controls.action.value == games.actions[20]
    assert len(view.board.labels) == 16 and "bits" in view.board.labels[0]
    for cell in range(16):
        view.board.chosen = cell
        assert f"row {cell // 4 + 1}, column {cell % 4 + 1}" in view.voice.status
        assert len(view.choices.bars) == view.choices.shape[
            0
        ] <= 12 and view.choices.bars == sorted(view.choices.bars, reverse=True)
    other = (games.actions[20] + 1) % 3
    before = view.expected.logits
    view.controls.action.value = int(other)
    assert (
        not torch.equal(before, view.expected.logits)
        and f"the recording went on with {NAMES[games.actions[20]]}" in view.voice.status
    )
    view.controls.frame.value = 21
    assert (
        view.controls.action.value == games.actions[21]
        and "After frame 21" in view.voice.status
        and not view.voice.wrong
    )


def test_next_token_scales_and_dreams(trained, games):
    view = NextToken(trained, games, start=20, frames=100, names=NAMES)
    view.controls.again.click()
    assert view.voice.wrong and "choose dreamt tokens" in view.voice.status
    bits = view.bits.sum()
    view.controls.temperature.value = 3.0
    assert view.bits.sum() > bits and not view.voice.wrong
    view.controls.top_k.value = 1
    assert view.bits.sum() == 0 and view.choices.shape[0] == 1
    view.controls.given.value = "dreamt tokens"
    assert (
        torch.equal(view.expected.tokens[-1], view.expected.logits.argmax(-1))
        and "was drawn" in view.voice.status
    )
    view.controls.top_k.value = 0
    before = view.expected.tokens
    for _ in range(20):
        view.controls.again.click()
    assert not torch.equal(before[-1], view.expected.tokens[-1]) and torch.equal(
        before[:-1], view.expected.tokens[:-1]
    )
    assert view.came.title == "dreamt: frame 21"


def test_frame_attention(trained, games):
    view = FrameAttention(trained, games, start=20, names=NAMES)
    assert "all layers, mean of heads" in view.voice.status and view.heads.shape[0] == 3 * 5
    for cell, head in ((0, 0), (5, 4), (15, 14)):
        view.board.chosen, view.heads.chosen = cell, head
        assert torch.equal(
            view.look.row, view.reading.weights.flatten(0, 1)[head, 3 * 17 - 1 + cell]
        )
        assert view.board.labels[cell].endswith("predicted") and view.board.texts[cell] == "?"
        assert (
            f"row {cell // 4 + 1}, column {cell % 4 + 1} of frame 21" in view.voice.status
            and view.heads.labels[head] in view.voice.status
        )
        assert abs(view.look.on_frames.sum() + view.look.on_actions.sum() - 1) < 1e-5
    view.frame.value = 0
    assert (
        view.past.shape[0] == 1
        and len(view.moves.bars) == 1
        and view.heads.chosen == 14
        and not view.voice.wrong
    )


def test_errors_are_sentences_and_the_view_goes_on(trained, games):
    last = int(games.starts[1]) - 1
    for view in (
        NextToken(trained, games, start=20, frames=100, names=NAMES),
        FrameAttention(trained, games, start=20, names=NAMES),
    ):
        frame = getattr(view, "controls", view).frame
        frame.value = last
        assert view.voice.wrong and "last of its game" in view.voice.status
        view.board.chosen = 3
        assert not view.voice.wrong and "frame 2" in view.voice.status
        frame.value = 22
        assert "frame 22" in view.voice.status or "frame 23" in view.voice.status


def test_a_checkpoint_without_a_world_model_is_refused(games):
    for view in (NextToken, FrameAttention):
        with pytest.raises(UserError, match="holds no world_model"):
            view(load_trained("pong-16"), games)


def test_every_picture_has_words_and_snapshots_are_drawn(trained, games):
    for view in (
        NextToken(trained, games, start=20, frames=100, names=NAMES),
        FrameAttention(trained, games, start=20, names=NAMES),
    ):
        assert all(
            len(gallery.labels) == gallery.shape[0]
            for gallery in galleries(view)
            if gallery.shape[0]
        )
        assert view.snapshot().width > 400 and "image/png" in view._repr_mimebundle_()
        assert sum(len(gallery.pixels) for gallery in galleries(view)) < 500_000


def test_a_view_hides_no_method_of_its_widget(trained, games):
    "A method called `open` would keep the browser from ever hearing of the widget."
    methods = {
        name
        for kind in ipywidgets.VBox.__mro__
        for name, value in vars(kind).items()
        if callable(value) and not name.startswith("_")
    }
    for view in (
        NextToken(trained, games, start=20, frames=100, names=NAMES),
        FrameAttention(trained, games, start=20, names=NAMES),
    ):
        own = {
            name
            for kind in type(view).__mro__
            if kind.__module__.startswith("iris_edu")
            for name in vars(kind)
        }
        assert not methods & {*own, *vars(view)} and view.comm


def test_a_defect_in_a_handler_becomes_a_sentence():
    view, button = View(), ipywidgets.Button()
    view.when(button, lambda: 1 / 0)
    button.click()
    assert view.voice.wrong and view.voice.status == "ZeroDivisionError: division by zero"


def test_dead_codes_are_told_from_used_ones():
    class Half(torch.nn.Module):
        grid, vocabulary = 2, 4

        def encode(self, frames):
            return torch.zeros(len(frames), 4, dtype=torch.int64) + torch.tensor([0, 1, 1, 0])

    usage = code_usage(Half(), torch.rand(3, 3, 8, 8))
    assert usage.counts.tolist() == [6, 6, 0, 0] and usage.pictures[2].equal(usage.pictures[3])
    assert occurrences(usage, 2) == [] and [frame for frame, _ in occurrences(usage, 1)] == [
        0,
        1,
        2,
    ]


# Parts of others

WIDGETS = [TokenEditor, NextToken, FrameAttention]


def foreign(trained, tokenizer, model=True):
    "The trained agent with a tokenizer of `foreign_parts`, and its world model or ours."
    theirs = tokenizer(trained.config.tokenizer, trained.config.autoencoder).eval()
    tokens = theirs.tokens_per_frame
    counting = foreign_parts.CountingModel(theirs.vocabulary, 3, tokens).eval()
    return trained._replace(
        tokenizer=theirs, world_model=counting if model else trained.world_model
    )


@pytest.mark.parametrize("widget", WIDGETS)
def test_tokens_without_a_grid_are_named_in_a_sentence(trained, games, widget):
    with pytest.raises(UserError, match="needs a tokenizer whose tokens form a grid") as error:
        widget(foreign(trained, foreign_parts.PairTokenizer), games)
    assert widget.__name__ in str(error.value) and "32 tokens" in str(error.value)


def test_a_codebook_without_a_grid_is_named_in_a_sentence(trained, games):
    theirs = foreign(trained, foreign_parts.PairTokenizer).tokenizer
    with pytest.raises(UserError, match="Codebook needs a tokenizer whose tokens form a grid"):
        Codebook(theirs, recorded_frames(games, slice(20)))


def test_a_grid_without_a_codebook_can_be_edited(trained, games):
    view = TokenEditor(foreign(trained, foreign_parts.GridTokenizer), games, frames=50)
    assert view.palette.order.options == ("most used",) and not view.voice.wrong
    view.shown.board.chosen = 5
    view.edit(3)
    view.dream_both.click()
    assert "The two dreams differ by" in view.voice.status and not view.voice.wrong
    view.undo.click()
    assert not view.shown.board.marked
    book = Codebook(view.tokenizer, view.frames)
    book.atlas.chosen = 0
    assert "patches in" in book.voice.status and "neighbours" not in book.voice.status
    with pytest.raises(UserError, match="have no neighbours"):
        nearest_codes(view.tokenizer, 0, 3)


def test_another_world_model_says_what_comes_next(trained, games):
    view = NextToken(
        foreign(trained, foreign_parts.GridTokenizer), games, start=20, frames=50, names=NAMES
    )
    assert "After frame 20" in view.voice.status and not view.voice.wrong
    view.controls.given.value = "dreamt tokens"
    assert "was drawn" in view.voice.status and not view.voice.wrong


def test_a_world_model_without_attention_is_named_in_a_sentence(trained, games):
    with pytest.raises(UserError, match="CountingModel has no Transformer"):
        FrameAttention(foreign(trained, foreign_parts.GridTokenizer), games, start=20, names=NAMES)


def test_foreign_parts_keep_their_contracts():
    check_tokenizer(foreign_parts.PairTokenizer)
    check_segment_sampler(foreign_parts.RecentSegments())
    check_heads(foreign_parts.TwoHotHeads)
    check_world_model(
        lambda config, transformer, vocabulary, actions, tokens_per_frame, **parts: (
            foreign_parts.CountingModel(vocabulary, actions, tokens_per_frame)
        )
    )


@pytest.mark.parametrize("view", [TokenEditor, Codebook])
def test_no_widget_hides_what_ipywidgets_needs(view):
    needed = set(dir(ipywidgets.VBox)) - {"snapshot"}
    own = {
        name
        for kind in view.__mro__
        if kind.__module__.startswith("iris_edu")
        for name in vars(kind)
    }
    assert not {name for name in needed & own if not name.startswith("_")}
    assert issubclass(view, ipywidgets.VBox)


def test_widgets_stand_two_levels_below_the_library():
    for view in (TokenEditor, Codebook, NextToken, FrameAttention, Dashboard):
        assert view.__mro__[1:3] == (View, ipywidgets.VBox)
