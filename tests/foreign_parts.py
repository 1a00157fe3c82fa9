"""Parts that share no base class with ours, only the protocols: what a student may bring.

A tokenizer with two tokens for each position, a world model that counts, a sampler of young
episodes, and reward heads by two-hot bins.
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import nn
from torch.nn import functional as F

from iris_edu.world_model import sample_categorical

GRID, HALVES, LEVELS = 4, 2, 4  # 4 x 4 positions, two tokens each, four levels of each colour


class PairTokenizer(nn.Module):
    """32 tokens a frame: the mean colours of the upper and the lower half of 4 x 4 patches.

    A TokenizerLike (chapter 04); the tokens of a position stand side by side, in no square grid.
    """

    vocabulary, tokens_per_frame = LEVELS**3, GRID * GRID * HALVES

    def __init__(self, config, autoencoder, **parts):
        super().__init__()
        self.size = autoencoder.size
        self.shade = nn.Parameter(torch.zeros(3))

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        "(...,3,H,W) in [0,1] -> (...,32) int64."
        halves = rearrange(
            frames, "... c (h u p) (w q) -> ... (h w u) c (p q)", h=GRID, u=HALVES, w=GRID
        )
        levels = (halves.mean(-1) * LEVELS).long().clamp(0, LEVELS - 1)
        return (levels * levels.new_tensor([LEVELS**2, LEVELS, 1])).sum(-1)

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        "(...,32) -> (...,3,H,W) in [0,1], each half patch in its colour."
        digits = [tokens // LEVELS**power % LEVELS for power in (2, 1, 0)]
        colours = (torch.stack(digits, -1) + 0.5) / LEVELS + self.shade
        side = self.size // GRID
        frames = repeat(
            colours.clamp(0, 1),
            "... (h w u) c -> ... c (h u p) (w q)",
            h=GRID,
            w=GRID,
            u=HALVES,
            p=side // HALVES,
            q=side,
        )
        return frames

    def reconstruct(self, frames: torch.Tensor) -> torch.Tensor:
        "(...,3,H,W) -> (...,3,H,W) in [0,1]."
        return self.decode(self.encode(frames))

    def loss(self, frames: torch.Tensor, perceptual=None) -> dict[str, torch.Tensor]:
        "(B,3,H,W) -> the mean absolute error, and the perceptual one if there is any."
        drawn = self.reconstruct(frames)
        terms = {"reconstruction": (frames - drawn).abs().mean()}
        if perceptual is not None:
            terms["perceptual"] = perceptual(2 * frames - 1, 2 * drawn - 1).mean()
        return terms


class GridTokenizer(PairTokenizer):
    """16 tokens a frame, the mean colour of 4 x 4 patches, in a grid; it has no codebook."""

    grid, tokens_per_frame = GRID, GRID * GRID

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        "(...,3,H,W) in [0,1] -> (...,16) int64."
        return super().encode(frames)[..., ::HALVES]

    def decode(self, tokens: torch.Tensor) -> torch.Tensor:
        "(...,16) -> (...,3,H,W) in [0,1]."
        return super().decode(tokens.repeat_interleave(HALVES, -1))


class Sofar(NamedTuple):
    "What CountingModel knows: the last frame (B,K), the last action (B,), the tokens since (B,n)."

    frame: torch.Tensor
    action: torch.Tensor
    new: torch.Tensor


class Forecast(NamedTuple):
    "Logits (B,N) of the next token, (B,3) of the reward's sign and (B,2) of the end."

    token: torch.Tensor
    reward: torch.Tensor
    ending: torch.Tensor


class CountingModel(nn.Module):
    """A DynamicsModel (chapter 06) without a Transformer: a token becomes another or stays.

    What a token becomes depends on itself and the action alone; it reads one frame back.
    """

    def __init__(self, vocabulary: int, actions: int, tokens_per_frame: int):
        super().__init__()
        self.tokens_per_frame = tokens_per_frame
        self.table = nn.Parameter(4 * torch.eye(vocabulary).repeat(actions, 1, 1))
        self.rewards = nn.Parameter(torch.zeros(actions, 3))
        self.ends = nn.Parameter(torch.tensor([4.0, 0.0]).repeat(actions, 1))

    def begin(self, tokens, actions=None):
        "Reads frames (B,T,K): remembers the last."
        last = tokens[:, -1]
        return Sofar(last, last.new_zeros(len(last)), last[:, :0])

    def _next(self, memory):
        "Logits (B,N) of the token after those that are there."
        return self.table[memory.action, memory.frame[:, memory.new.shape[1]]]

    def act(self, memory, action):
        "Action (B,) -> (memory, Forecast)."
        memory = memory._replace(action=action, new=memory.frame[:, :0])
        return memory, Forecast(self._next(memory), self.rewards[action], self.ends[action])

    def extend(self, memory, token):
        "The next token (B,) of the new frame -> (memory, logits (B,N) of the one after it)."
        memory = memory._replace(new=torch.cat([memory.new, token[:, None]], 1))
        return memory, self._next(memory)

    def finish(self, memory, last_token):
        "The last token (B,) of the new frame -> memory."
        frame = torch.cat([memory.new, last_token[:, None]], 1)
        return Sofar(frame, memory.action, frame[:, :0])

    def room(self, memory):
        "A memory of one frame has always room."
        return 1_000

    def sample_reward(self, prediction, generator):
        "A reward of -1, 0 or 1 (B,)."
        return sample_categorical(prediction.reward, generator).float() - 1

    def sample_ending(self, prediction, generator):
        "Bool (B,), whether the episode ends."
        return sample_categorical(prediction.ending, generator).bool()

    def loss(self, tokens, actions, rewards, dones, mask):
        "Cross-entropy of the next frame's tokens, (B,T,K), given action and frame (B,T)."
        logits = self.table[actions[:, :-1, None], tokens[:, :-1]]
        wanted = tokens[:, 1:].masked_fill(~(mask[:, 1:] & mask[:, :-1])[..., None], -100)
        at = actions[mask]
        sign = F.cross_entropy(self.rewards[at], rewards[mask].sign().long() + 1)
        end = F.cross_entropy(self.ends[at], dones[mask].long())
        transition = F.cross_entropy(logits.flatten(0, 2), wanted.flatten(), ignore_index=-100)
        return dict(transition=transition, reward=sign, ending=end)


class RecentSegments:
    "A SegmentSampler (chapter 02): the newest episode is three times as likely as the oldest."

    def __call__(self, lengths, n, length, anchor, generator=None):
        "n segments of `length` steps from episodes of `lengths` (E,) -> episodes, first steps."
        weights = torch.linspace(1, 3, len(lengths))
        episode = torch.multinomial(weights, n, replacement=True, generator=generator)
        share = torch.rand(n, generator=generator, dtype=torch.float64)
        step = (share * lengths[episode]).long()
        return episode, step if anchor == "start" else step + 1 - length


class TwoHotHeads(nn.Module):
    """HeadsLike (chapter 06) with the reward as two-hot bins of symlog values (DreamerV3).

    Built from (config, width, vocabulary).
    """

    def __init__(self, config, width, vocabulary, bins=41):
        super().__init__()
        self.register_buffer("support", torch.linspace(-5, 5, bins))
        self.tokens, self.rewards, self.endings = (
            nn.Linear(width, size) for size in (vocabulary, bins, 2)
        )

    def reward_loss(self, out, rewards, mask):
        "out (B,T,bins), rewards float (B,T), mask bool (B,T) -> mean cross-entropy."
        value = (rewards.sign() * rewards.abs().log1p()).clamp(-5, 5)
        below = ((value[..., None] >= self.support).sum(-1) - 1).clamp(0, len(self.support) - 2)
        low, high = self.support[below], self.support[below + 1]
        share = (value - low) / (high - low)
        logs = out.float().log_softmax(-1)
        lower, upper = (logs.gather(-1, at[..., None])[..., 0] for at in (below, below + 1))
        return -(((1 - share) * lower + share * upper) * mask).sum() / mask.sum()

    def sample_reward(self, out, generator):
        "out (B,bins) -> the mean reward (B,)."
        value = (out.float().softmax(-1) * self.support).sum(-1)
        return value.sign() * value.abs().expm1()
