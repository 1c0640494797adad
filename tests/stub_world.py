"""A world and a scorer with a known answer: no language model, no training."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np

from envs.adaptation.jobs import Score, ScoreJob
from envs.masking_env import MaskingEnv
from envs.text.corpus import Context
from envs.world import Deal

LENGTH = 24
CLS, SEP = 2, 3
DIRECTIONS = {"accuracy": True, "nll": False}


class StubWorld:
    """Contexts of 8 to 20 tokens; even token ids are the ones worth masking."""

    def __init__(self, tokenizer, contexts: int = 4, max_length: int = LENGTH) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.vocab_size = len(tokenizer)
        self.contexts = contexts

    def deal(self, seed: np.random.SeedSequence) -> Deal:
        rng = np.random.default_rng(seed)
        contexts = [self._context(rng) for _ in range(self.contexts)]
        return Deal(
            contexts=contexts,
            context_ids=rng.integers(1000, size=self.contexts).astype(np.int32),
            train=[],
            score=[],
            informative=[(c.input_ids % 2 == 0) & c.maskable for c in contexts],
        )

    def _context(self, rng: np.random.Generator) -> Context:
        n = int(rng.integers(8, 21))
        ids = rng.integers(5, self.vocab_size, size=n).astype(np.int32)
        ids[0], ids[-1] = CLS, SEP
        words = np.arange(-1, n - 1, dtype=np.int32) // 2
        words[0] = words[-1] = -1
        return Context(ids, words, words >= 0)


def stub_score(job: ScoreJob) -> Score:
    """Accuracy: how many even tokens are masked; nll: its opposite."""
    hits, tokens = 0, 0
    for context, mask in zip(job.contexts, job.masks or [], strict=job.masks is not None):
        assert len(mask) == len(context)
        hits += int((context.input_ids[mask] % 2 == 0).sum())
        tokens += int(mask.sum())
    noise = job.seed % 7
    metrics = {"accuracy": float(hits + noise), "nll": float(noise - hits)}
    return Score(metrics, [metrics], {"pretrain_tokens": tokens})


class StubExecutor:
    """Scores at once and remembers the jobs."""

    def __init__(self) -> None:
        self.jobs: list[ScoreJob] = []

    def submit(self, job: ScoreJob) -> Future[Score]:
        self.jobs.append(job)
        future: Future[Score] = Future()
        future.set_result(stub_score(job))
        return future


class FailingExecutor(StubExecutor):
    """Cannot take a job once, when it has taken some."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after, self.failed = after, False

    def submit(self, job: ScoreJob) -> Future[Score]:
        if len(self.jobs) == self.after and not self.failed:
            self.failed = True
            raise OSError("no worker")
        return super().submit(job)


def stub_env(tokenizer, contexts: int = 4, max_length: int = LENGTH, **settings) -> MaskingEnv:
    settings = {"headline": "accuracy", "higher_is_better": DIRECTIONS, "budget": 0.2} | settings
    return MaskingEnv(StubWorld(tokenizer, contexts, max_length), StubExecutor(), **settings)


def play(env: MaskingEnv, choose, **reset):
    """Play an episode with ``choose(observation) -> mask``; observations and the last step."""
    observation, _ = env.reset(**reset)
    seen, terminated = [observation], False
    while not terminated:
        observation, reward, terminated, _, info = env.step(choose(observation))
        seen.append(observation)
    return seen, reward, info


def first_maskable(observation) -> np.ndarray:
    """As many maskable tokens as allowed, from the left."""
    maskable = observation["maskable"].astype(bool)
    return (maskable & (maskable.cumsum() <= observation["budget"][0])).astype(np.int8)


def even_tokens(observation) -> np.ndarray:
    """The best mask there is."""
    best = observation["maskable"].astype(bool) & (observation["input_ids"] % 2 == 0)
    return (best & (best.cumsum() <= observation["budget"][0])).astype(np.int8)


class Everything:
    """A policy that knows no rules: it masks all there is, special tokens and padding too."""

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.ones(observation["input_ids"].shape, np.int8), state
