"""The Transformer: sizes of the paper, causality, and cached passes equal to full ones."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.testing import assert_close

from iris_edu.base.settings import UserError
from iris_edu.transformer import (
    CausalAttention,
    LayerCache,
    Transformer,
    TransformerConfig,
    attend,
    look_back,
)

CONTEXT = 24
SMALL = TransformerConfig(layers=3, heads=2, width=16)


def size(module):
    return sum(p.numel() for p in module.parameters())


def build(config=SMALL, context=CONTEXT, **parts):
    "A small Transformer with weights large enough that every token matters."
    torch.manual_seed(0)
    model = Transformer(config, context, **parts).eval()
    for p in model.parameters():
        p.data.add_(0.2 * torch.randn_like(p))
    return model


def test_sizes_of_the_paper():
    model = Transformer(TransformerConfig(), context=340)
    assert size(model.blocks[0]) == 789_760
    assert size(model) - size(model.positions) == 7_898_112
    assert size(model.positions) == 340 * 256


def test_start_weights():
    model = Transformer(TransformerConfig(layers=1), context=340)
    for m in model.modules():
        if isinstance(m, (nn.Linear, nn.Embedding)):
            assert abs(m.weight.std().item() - 0.02) < 1e-3
        if isinstance(m, nn.Linear):
            assert not m.bias.any()
        if isinstance(m, nn.LayerNorm):
            assert (m.weight == 1).all() and not m.bias.any()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 3))
def test_any_chunking_equals_the_full_pass(chunks, batch):
    chunks = [n for i, n in enumerate(chunks) if sum(chunks[: i + 1]) <= CONTEXT]
    model, x = build(), torch.randn(batch, sum(chunks), SMALL.width)
    with torch.no_grad():
        full, none = model(x)
        cache, parts = model.empty_cache(batch), []
        for piece in x.split(chunks, 1):
            y, cache = model(piece, cache)
            parts.append(y)
    assert none is None and cache.length == sum(chunks)
    assert_close(torch.cat(parts, 1), full, atol=1e-5, rtol=0)


def test_paper_size_token_by_token():
    torch.manual_seed(0)
    model, x = Transformer(TransformerConfig(), 340).eval(), torch.randn(1, 340, 256)
    with torch.no_grad():
        cache, parts = model.empty_cache(1), []
        for i in range(340):
            y, cache = model(x[:, i : i + 1], cache)
            parts.append(y)
        assert_close(torch.cat(parts, 1), model(x)[0], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, CONTEXT - 1))
def test_a_later_token_never_changes_an_earlier_output(place):
    model, x = build(), torch.randn(1, CONTEXT, SMALL.width)
    other = x.clone()
    other[:, place] += torch.randn(SMALL.width)
    with torch.no_grad():
        change = (model(x)[0] - model(other)[0]).abs().amax(-1)[0]
    assert change[:place].max() < 1e-6 if place else True
    assert (change[place:] > 1e-6).all()


def test_an_old_cache_still_describes_the_past():
    """The buffers are shared, but a cache reads only its own length.

    Branches may be taken one after the other.
    """
    model, x = build(), torch.randn(1, 6, SMALL.width)
    with torch.no_grad():
        _, start = model(x[:, :4], model.empty_cache(1))
        first, _ = model(x[:, 4:5], start)
        model(x[:, 5:6], start)
        again, _ = model(x[:, 4:5], start)
    assert start.length == 4
    assert_close(first, again)


def test_dropout_only_in_training():
    model, x = build(), torch.randn(1, 8, SMALL.width)
    assert torch.equal(model(x)[0], model(x)[0])
    model.train()
    assert not torch.equal(model(x)[0], model(x)[0])


def test_gradient_reaches_every_parameter():
    model = build()
    model(torch.randn(2, CONTEXT, SMALL.width))[0].square().mean().backward()
    # softmax ignores a constant
    key_bias = {f"blocks.{i}.attention.key.bias" for i in range(SMALL.layers)}
    assert all(
        p.grad.abs().sum() > 0 for name, p in model.named_parameters() if name not in key_bias
    )


@pytest.mark.parametrize("used,new", [(0, CONTEXT + 1), (CONTEXT, 1), (CONTEXT - 1, 2)])
def test_context_overflow_is_a_sentence(used, new):
    model = build()
    cache = model.empty_cache(1)._replace(length=used)
    with pytest.raises(
        UserError, match=f"holds {CONTEXT} tokens and {used} are used, so {new} more"
    ):
        model(torch.zeros(1, new, SMALL.width), cache)


@pytest.mark.parametrize(
    "bad",
    [
        dict(width=30),
        dict(layers=0),
        dict(heads=0),
        dict(attention_dropout=1.0),
        dict(embed_dropout=-0.1),
    ],
)
def test_bad_configurations(bad):
    with pytest.raises(UserError):
        TransformerConfig(**bad)


class SharedKeys(CausalAttention):
    "Multi-query attention: all heads share one key and one value, so that the cache is smaller."

    def __init__(self, config):
        super().__init__(config)
        self.key, self.value = (
            nn.Linear(config.width, config.width // config.heads) for _ in range(2)
        )

    def empty_cache(self, batch, context):
        return LayerCache(
            *(torch.empty(batch, 1, context, self.key.out_features) for _ in range(2)), 0
        )

    def forward(self, x, layer_cache=None):
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v, used = self.key(x).unsqueeze(1), self.value(x).unsqueeze(1), 0
        if layer_cache is not None:
            used = layer_cache.length
            k, v = (
                torch.cat([layer_cache.keys[:, :, :used], k], 2),
                torch.cat([layer_cache.values[:, :, :used], v], 2),
            )
            layer_cache = LayerCache(k, v, k.shape[2])
        mask = torch.ones(x.shape[1], k.shape[2], dtype=torch.bool).tril(used)
        y = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(~mask, -torch.inf).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2)), layer_cache


def test_another_attention_with_a_cache_of_its_own():
    model, x = build(attention=SharedKeys), torch.randn(2, 9, SMALL.width)
    with torch.no_grad():
        y, cache = model(x[:, :4], model.empty_cache(2))
        rest, cache = model(x[:, 4:], cache)
        assert_close(torch.cat([y, rest], 1), model(x)[0], atol=1e-5, rtol=0)
    assert cache.keys[0].shape == (2, 1, 9, 8)


@given(st.integers(1, 9), st.integers(0, 9), st.integers(1, 5))
def test_who_may_read_whom_against_brute_force(new, old, block):
    seen = new + old
    expected = [[j // block <= i // block for j in range(seen)] for i in range(old, seen)]
    assert look_back(new, seen, block).tolist() == expected


def test_blocks_of_one_token_are_causal_bit_for_bit():
    q, k, v = torch.randn(3, 2, 2, 7, 4)
    for new in (1, 3, 7):
        newest = q[:, :, -new:]
        mask = torch.ones(new, 7, dtype=torch.bool).tril(7 - new)
        options = dict(is_causal=True) if new == 7 else dict(attn_mask=None if new == 1 else mask)
        plain = torch.nn.functional.scaled_dot_product_attention(newest, k, v, **options)
        assert torch.equal(attend(newest, k, v), plain)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=6))
def test_whole_blocks_through_a_cache_equal_the_full_pass(blocks):
    blocks = [n for i, n in enumerate(blocks) if 4 * sum(blocks[: i + 1]) <= CONTEXT]
    model = build(attention=partial(CausalAttention, block=4))
    x = torch.randn(2, 4 * sum(blocks), SMALL.width)
    with torch.no_grad():
        cache, parts = model.empty_cache(2), []
        for piece in x.split([4 * n for n in blocks], 1):
            y, cache = model(piece, cache)
            parts.append(y)
        assert_close(torch.cat(parts, 1), model(x)[0], atol=1e-5, rtol=0)


def test_a_later_block_never_changes_an_earlier_output_and_its_own_always():
    model, x = build(attention=partial(CausalAttention, block=4)), torch.randn(1, 12, SMALL.width)
    other = x.clone()
    other[:, 7] += torch.randn(SMALL.width)
    with torch.no_grad():
        change = (model(x)[0] - model(other)[0]).abs().amax(-1)[0]
    assert change[:4].max() < 1e-6 and (change[4:] > 1e-6).all()
