"""``nmg train``: meta-training, from settings to a run folder with a policy and a report."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.folders import check_writable
from nmg.config import TrainingConfig, resolve_training
from nmg.options import (
    ConfigError,
    add_flags,
    build,
    differences,
    flatten,
    given_flags,
    read_settings,
    write_settings,
)

if TYPE_CHECKING:
    from agents.actor_critic import MaskingActorCritic
    from envs.masking_env import MaskingEnv
    from nmg.assembly import Stage
    from nmg.forecast import Forecast

EXAMPLES = """examples:
  nmg train                                       the testbed, minutes on a laptop
  nmg train --task qa --dataset squadshifts-new_wiki --model minilm --episodes 20
  nmg train --task classification --dataset labelled.csv --corpus domain.txt --model minilm
                                                  few labels, and unlabelled text to mask
  nmg train --task generation --dataset multi30k --model models/multi30k
  nmg train --preset squad-bert --device cuda     the paper's settings
  nmg train --config mine.yaml --seed 3
  nmg train --resume output/testbed/tiny/mine_neural
"""
MAY_CHANGE = ("episodes", "workers", "device", "data_dir", "tensorboard", "job_timeout")
"""Settings that a resumed run may be given anew; all others would make it another run."""


def add_parser(subparsers: Any) -> None:
    """Mount ``train`` on the command line."""
    parser = subparsers.add_parser(
        "train",
        help="learn a masking policy (meta-training)",
        description="Learn a masking policy. The run goes to output/DATASET/MODEL/NAME_neural.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    place = parser.add_argument_group("where the run goes")
    place.add_argument("--name", help="of the run (default: the time)")
    place.add_argument("--output", type=Path, metavar="DIR", help="the run folder itself")
    place.add_argument("--resume", type=Path, metavar="DIR", help="go on with this run")
    add_flags(parser, TrainingConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the settings, then train."""
    if args.resume is not None:
        config, folder = _resumed(args), args.resume
    else:
        from_file = read_settings(args.config) if args.config else {}
        from_file.pop("test", None)
        flags = given_flags(TrainingConfig, args)
        config = resolve_training(flags, args.preset, from_file)
        folder = args.output or run_folder(config, args.name, "neural")
        check_free(folder)
    with stoppable(f"nmg train --resume {shlex.quote(str(folder))}", folder):
        train(config, folder)
    return 0


def run_folder(config: Any, name: str | None, kind: str) -> Path:
    """``output/DATASET/MODEL/NAME_KIND``."""
    name = name or datetime.now().strftime("%Y%m%d-%H%M%S")
    parts = [Path(str(part)).name for part in (config.data.dataset, config.data.model)]
    return Path("output", *parts, f"{name}_{kind}")


def check_free(folder: Path) -> None:
    """See to it that the folder holds no run yet.

    Raises:
        ValueError: if it does, or nothing can be written there.
    """
    check_writable(folder)
    if (folder / "resolved.yaml").exists():
        raise ConfigError(
            f"{folder} already holds a run; go on with it by --resume {folder}, or give another "
            "--name or --output."
        )


def _resumed(args: argparse.Namespace) -> TrainingConfig:
    path = args.resume / "resolved.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"There is no run to resume in {args.resume}: no resolved.yaml.")
    for name in ("name", "output", "preset", "config"):
        if getattr(args, name) is not None:
            raise ConfigError(
                f"--{name} is {getattr(args, name)}, but a resumed run has its folder and its "
                "settings already; leave it out."
            )
    before, given = read_settings(path), given_flags(TrainingConfig, args)
    config = build(TrainingConfig, before | given)
    after = flatten(config)
    for name, value in after.items():
        if name not in MAY_CHANGE and before.get(name, value) != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {value} but the run in {args.resume} was started "
                f"with {before[name]}; only {', '.join(MAY_CHANGE)} may change on --resume."
            )
    return config


@contextmanager
def stoppable(command: str, folder: Path) -> Iterator[None]:
    """Let a run that is stopped end with a word on how to go on; files are whole at any moment.

    Args:
        command: that goes on.
        folder: where to; a run that is stopped before it has one cannot go on.
    """
    try:
        yield
    except KeyboardInterrupt:
        if not (folder / "resolved.yaml").exists():
            raise KeyboardInterrupt("stopped before anything was done.") from None
        raise KeyboardInterrupt(f"stopped; what was done is kept. Go on with: {command}") from None


def train(config: TrainingConfig, folder: Path) -> None:
    """Meta-train in a run folder, going on from its last checkpoint if it has one."""
    from nmg.assembly import open_workshop, training_stage
    from nmg.callbacks import EpisodeBar, RunLog
    from nmg.checkpoint import last_checkpoint, read_about
    from nmg.training_loop import TrainingCallback, Validation, check_names
    from nmg.training_report import finish

    prepare_process()
    on = training_stage(config.data, config.episode)
    check_names(config, on)
    # Only now: a run that could not begin leaves no folder behind.
    folder.mkdir(parents=True, exist_ok=True)
    write_settings(folder, config)
    latest = last_checkpoint(folder)
    done = read_about(latest)["episode"] if latest else 0
    bar = EpisodeBar(config.run.episodes, "episode", done=done, jobs=jobs_per_episode(config))
    weights = folder / "weights" if config.episode.continual else None
    shop = open_workshop(
        on,
        config.data,
        cache=folder / "scores",
        weights=weights,
        timeout=config.run.job_timeout,
        bar=bar,
    )
    log = RunLog(folder, resume_at=done, tensorboard=config.run.tensorboard)
    try:
        env = build_env(config, on, shop.executor)
        predicted = announce(config, on, env, done)
        started = time.perf_counter()
        agent = build_agent(config, on, env)
        callback = TrainingCallback(
            folder,
            log,
            bar,
            every=config.run.checkpoint_every,
            last=config.run.episodes,
            validation=Validation(config, on, shop.executor),
            env=env,
            states=on.states,
            weights=weights,
        )
        if latest is not None and done:  # checkpoint 0 is for acting: a fresh agent is its state
            callback.restore(agent, latest)
        left = config.run.episodes - done
        if left > 0:
            steps = left * env.contexts_per_episode
            agent.learn(steps, callback=callback, reset_num_timesteps=False)
        bar.begin(final_jobs(config), "score job")
        finish(config, folder, on, shop.executor, time.perf_counter() - started)
        print(predicted.against(time.perf_counter() - started))
    finally:
        bar.close()
        log.close()
        shop.close()


def prepare_process() -> None:
    """Process-wide settings; one thread, so that results do not depend on the machine's cores."""
    from envs.models.runtime import tune_runtime

    tune_runtime(threads=1)


def jobs_per_episode(config: TrainingConfig) -> int:
    """Score jobs of an episode: the agent's, the opponent's and random's."""
    return 1 + (config.agent.self_play != "none") + config.episode.random_reference


def final_jobs(config: TrainingConfig) -> int:
    """Score jobs of the comparison at the end: policy, random, two controls, rivals, best mask."""
    maskings = 4 + len(config.run.rivals) + (config.data.task == "testbed")
    return config.run.final_episodes * maskings


def build_env(config: TrainingConfig, on: Stage, executor: Any) -> MaskingEnv:
    """The environment that the agent learns on."""
    from agents.fragments import densest_fragment
    from envs.fragment_env import FragmentMaskingEnv
    from envs.masking_env import MaskingEnv

    episode = config.episode
    kind = partial(FragmentMaskingEnv, reading=densest_fragment) if on.fragments else MaskingEnv
    return kind(
        on.world,
        executor,
        settings=config.adaptation,
        budget=episode.budget,
        reward=episode.env_reward,
        references={"random": "random"} if episode.random_reference else {},
        headline=on.task.headline,
        higher_is_better=on.task.higher_is_better,
        continual=episode.continual,
        continual_reset_every=episode.continual_reset_every,
    )


def build_agent(config: TrainingConfig, on: Stage, env: MaskingEnv) -> MaskingActorCritic:
    """The agent, its opponent among the environment's references."""
    from stable_baselines3.common.logger import Logger

    from agents.actor_critic import MaskingActorCritic

    agent = MaskingActorCritic(
        env,
        config.agent,
        token_features=on.states,
        seed=config.run.seed,
        device="cpu" if config.data.device == "cpu" else config.data.device,
    )
    agent.set_logger(Logger(folder=None, output_formats=[]))  # or a folder in /tmp for each run
    agent.attach_opponent()
    return agent


def announce(config: TrainingConfig, on: Stage, env: MaskingEnv, done: int) -> Forecast:
    """Print what the run is and what it will cost."""
    from nmg.forecast import forecast_run
    from nmg.training_loop import validation_deals

    changed: Mapping[str, Any] = differences(config)
    print("Settings that differ from the defaults: " + (_listed(changed) or "none"))
    if on.about:
        print(on.about)
    episodes = max(0, config.run.episodes - done)
    checks = episodes // config.run.checkpoint_every * config.run.validation_episodes
    jobs = episodes * jobs_per_episode(config) + checks + config.run.validation_episodes
    jobs += final_jobs(config)
    predicted = forecast_run(config, on, validation_deals(config, on.world, 1)[0], jobs)
    print(predicted, flush=True)
    return predicted


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
