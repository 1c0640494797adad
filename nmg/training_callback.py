"""What happens around an agent's episodes: records, checkpoints, validation, exact resume.

An episode is recorded when its updates are done, which is when the next one begins; a checkpoint
is written there too, so a run that goes on from it does what the uninterrupted run does.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from envs.adaptation.jobs import BASE, Executor
from envs.masking_env import MaskingEnv
from envs.models.states import TokenStates
from envs.world import Deal, World
from nmg.assembly import Setup, learned_metric
from nmg.checkpoint import FolderWeights, prune_weights, read_about, write_checkpoint
from nmg.config import RunConfig, TrainingConfig
from nmg.evaluation import Greedy, evaluate, seed_of
from nmg.maskings import strategy
from nmg.options import ConfigError
from nmg.progress import ProgressBar
from nmg.run_log import RunLog

if TYPE_CHECKING:
    from agents.actor_critic import MaskingActorCritic


def validation_deals(config: TrainingConfig, world: World, count: int) -> list[Deal]:
    """Deals of the training world that no episode gets."""
    return [world.deal(seed_of(config.run.seed, "validation", n)) for n in range(count)]


def is_checkpoint(run: RunConfig, episodes: int) -> bool:
    """Whether a run is validated and saved after so many episodes; the last ones always are."""
    return episodes % run.checkpoint_every == 0 or episodes == run.episodes


def check_names(config: TrainingConfig, on: Setup) -> None:
    """See to it that the metric and the rivals are there before hours are spent without them.

    Raises:
        ConfigError: if the agent could not learn from the metric.
        ValueError: if there is no such strategy, or it cannot be a rival.
    """
    known = list(on.task.higher_is_better)
    if config.agent.metric not in ("headline", *known):
        raise ConfigError(
            f"metric is {config.agent.metric!r}; it must be headline or one of {', '.join(known)}."
        )
    deal = validation_deals(config, on.world, 1)[0]
    for name in config.run.rivals:
        strategy(name, on, deal.contexts)


class Validation:
    """Compares a policy with random masking on fixed deals of the training data.

    Args:
        config: how many deals, how scored.
        on: the world and the task.
        executor: remembers random's scores.
    """

    def __init__(self, config: TrainingConfig, on: Setup, executor: Executor) -> None:
        self._config, self._on, self._executor = config, on, executor
        self._deals: list[Deal] | None = None

    def __call__(self, policy: Any) -> float | None:
        """Mean gain over random in the metric that the agent learns from; ``None`` if off."""
        count = self._config.run.validation_episodes
        if not count:
            return None
        if self._deals is None:
            self._deals = validation_deals(self._config, self._on.world, count)
        scores = evaluate(
            self._on.world,
            self._deals,
            {"policy": self._on.played(Greedy(policy)), "random": self._on.random},
            self._executor,
            budget=self._config.episode.budget,
            settings=self._config.adaptation,
            run=self._config.run.seed,
        )
        metric, higher_is_better = learned_metric(self._config, self._on.task)
        pairs = zip(scores["policy"], scores["random"], strict=True)
        gain = float(np.mean([mine[metric] - other[metric] for mine, other in pairs]))
        return gain if higher_is_better else -gain


class TrainingCallback(BaseCallback):
    """Records episodes, writes checkpoints and keeps the states of a continual model current.

    Args:
        folder: the run folder.
        log: gets a record per episode.
        bar: told when an episode is over.
        settings: of the run; say when there is a checkpoint.
        validation: measures the policy at each checkpoint.
        env: the agent's environment, unwrapped.
        states: what the policy sees of the language model.
        weights: folder of further pre-trained weights, in continual mode; it holds those that the
            last checkpoint and the next episode need.
    """

    def __init__(
        self,
        folder: Path,
        log: RunLog,
        bar: ProgressBar,
        *,
        settings: RunConfig,
        validation: Validation,
        env: MaskingEnv,
        states: TokenStates,
        weights: Path | None,
    ) -> None:
        super().__init__()
        self._folder, self._log, self._bar = folder, log, bar
        self._settings = settings
        self._validation, self._env = validation, env
        self._states, self._weights = states, weights
        self._base = states.language_model.snapshot() if weights else None
        self._pending: dict[str, Any] | None = None
        self._weights_after = self._weights_saved = env.weights
        self._done = 0
        self._started = time.perf_counter()

    def restore(self, agent: MaskingActorCritic, checkpoint: Path) -> None:
        """Put agent and environment back to where the checkpoint was written."""
        about = read_about(checkpoint)
        agent.load_state(checkpoint)
        self._done = about["episode"]
        assert agent.env is not None
        agent.env.set_options({"episode": self._done, "weights": about["weights"]})
        self._weights_after = self._weights_saved = about["weights"]
        self._see(self._weights_after)

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()
        if not self._done:
            write_checkpoint(self._folder, 0, self._agent.save, {"weights": self._env.weights})

    def _on_step(self) -> bool:
        if self.locals["dones"][0]:
            # The environment has been reset by now: its weights are those the next episode starts
            # from, and the info is the finished one's.
            self._pending = self.locals["infos"][0]
            self._weights_after = self._env.weights
        return True

    def _on_rollout_start(self) -> None:
        self._record()

    def _on_training_end(self) -> None:
        self._record()
        self._see(BASE)

    @property
    def _agent(self) -> Any:
        return self.model

    def _record(self) -> None:
        if self._pending is None:
            return
        info, self._pending = self._pending, None
        record = episode_record(info, self._agent.last_metrics)
        episode, self._done = self._done, self._done + 1
        checkpoint = is_checkpoint(self._settings, self._done)
        if checkpoint:
            self._see(BASE)  # as in every comparison, where nothing was trained before
            gain = self._validation(self._agent.policy)
            if gain is not None:
                record["validation"] = {"gain": gain}
        self._see(self._weights_after)
        self._log.write(episode, record, time.perf_counter() - self._started)
        self._started = time.perf_counter()
        self._bar.unit_done()
        if checkpoint:
            about: dict[str, Any] = {"weights": self._weights_after}
            if gain is not None:
                about["validation"] = gain
            write_checkpoint(self._folder, self._done, self._agent.save_state, about)
            self._weights_saved = self._weights_after
        if self._weights is not None:
            # Each is the size of the model, and checkpoints can be fifty episodes apart.
            prune_weights(self._weights, {self._weights_saved, self._weights_after})

    def _see(self, weights: str) -> None:
        """In continual mode: what the policy sees is the model with these weights."""
        if self._weights is None or self._base is None:
            return
        stored = FolderWeights(self._weights, self._base)
        self._states.language_model.restore(stored[weights])
        self._states.forget()


def episode_record(info: Mapping[str, Any], metrics: Mapping[str, float]) -> dict[str, Any]:
    """What metrics.jsonl says of an episode; nothing in it depends on the clock."""
    record: dict[str, Any] = {
        "reward": metrics.get("reward", 0.0),
        "score": {name: dict(values) for name, values in info["scores"].items()},
        "cost": {name: dict(values) for name, values in info["cost"].items()},
        "mask": {
            "dropped": int(info["mask/dropped"]),
            "over_budget": int(info["mask/over_budget"]),
            "count": {name: int(np.sum(masks)) for name, masks in info["masks"].items()},
        },
        "agent": {
            name: value for name, value in metrics.items() if name.startswith(("loss/", "critic/"))
        },
    }
    if "informative_share" in info:
        record["informative"] = dict(info["informative_share"])
    return record
