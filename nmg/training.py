"""``nmg train``: meta-training, from settings to a run folder with a policy and a report."""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nmg.config import TrainingConfig
from nmg.config_files import training_file
from nmg.limits import refuse_idle, refuse_idle_reference
from nmg.options import (
    ConfigError,
    add_flags,
    build,
    differences,
    flatten,
    given_flags,
    user_path,
)
from nmg.resolution import resolve_training
from nmg.run_folders import (
    RESOLVED,
    check_free,
    claimed,
    run_folder,
    stoppable,
    whole_settings,
    write_settings,
)

if TYPE_CHECKING:
    from agents.actor_critic import MaskingActorCritic
    from envs.masking_env import MaskingEnv
    from envs.world import Deal
    from nmg.assembly import Setup
    from nmg.forecast import Forecast
    from nmg.score_cache import CachedExecutor

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
LEARNED = 3
"""Rows of the comparison at the end that depend on what was learned: the policy, its controls."""
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
    place.add_argument("--output", type=user_path, metavar="DIR", help="the run folder itself")
    place.add_argument("--resume", type=user_path, metavar="DIR", help="go on with this run")
    add_flags(parser, TrainingConfig)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Resolve the settings, then train."""
    if args.resume is not None:
        config, folder, anew = _resumed(args), args.resume, False
    else:
        flags = given_flags(TrainingConfig, args)
        config = resolve_training(flags, args.preset, training_file(args.config))
        refuse_idle(config.data.task, flags)
        refuse_idle_reference(flags.get("reference"), config.run.rivals)
        folder = args.output or run_folder(config, args.name, "neural")
        anew = not (args.output or args.name)
    with claimed(folder, anew=anew) as folder:
        if args.resume is None:
            check_free(folder)
        with stoppable(f"nmg train --resume {shlex.quote(str(folder))}", folder):
            train(config, folder)
    return 0


def _resumed(args: argparse.Namespace) -> TrainingConfig:
    before, given = whole_settings(args.resume, TrainingConfig), given_flags(TrainingConfig, args)
    for name in ("name", "output", "preset", "config"):
        if getattr(args, name) is not None:
            raise ConfigError(
                f"--{name} is {getattr(args, name)}, but a resumed run has its folder and its "
                "settings already; leave it out."
            )
    config = build(TrainingConfig, before | given, where=str(args.resume / RESOLVED))
    for name, value in flatten(config).items():
        if name not in MAY_CHANGE and before[name] != value:
            raise ConfigError(
                f"--{name.replace('_', '-')} is {value} but the run in {args.resume} was started "
                f"with {before[name]}; only {', '.join(MAY_CHANGE)} may change on --resume."
            )
    return config


def train(config: TrainingConfig, folder: Path) -> None:
    """Meta-train in a run folder, going on from its last checkpoint if it has one."""
    from envs.models.runtime import tune_runtime
    from nmg.assembly import open_executor, training_setup
    from nmg.checkpoint import last_checkpoint, read_about
    from nmg.progress import ProgressBar
    from nmg.run_log import RunLog
    from nmg.training_callback import TrainingCallback, Validation, check_names
    from nmg.training_report import finish

    latest = last_checkpoint(folder)
    done = read_about(latest)["episode"] if latest else 0
    if config.run.episodes < done:
        raise ConfigError(
            f"episodes is {config.run.episodes}, but {done} are done in {folder}; --episodes must "
            f"be at least {done}."
        )
    tune_runtime(threads=1)  # results must not depend on the machine's cores
    on = training_setup(config.data, config.episode)
    check_names(config, on)
    # Only now: a run that could not begin leaves nothing behind.
    write_settings(folder, config)
    weights = folder / "weights" if config.episode.continual else None
    with (
        ProgressBar(
            config.run.episodes, "episode", done=done, jobs=jobs_per_episode(config)
        ) as bar,
        open_executor(
            on,
            config.data,
            cache=folder / "scores",
            weights=weights,
            timeout=config.run.job_timeout,
            bar=bar,
        ) as executor,
        closing(RunLog(folder, resume_at=done, tensorboard=config.run.tensorboard)) as log,
    ):
        env = build_env(config, on, executor)
        predicted = announce(config, on, jobs_ahead(config, on, executor, folder, done))
        started = time.perf_counter()
        agent = build_agent(config, on, env)
        callback = TrainingCallback(
            folder,
            log,
            bar,
            settings=config.run,
            validation=Validation(config, on, executor),
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
        finish(config, folder, on, executor)
        print(predicted.against(time.perf_counter() - started))


def jobs_per_episode(config: TrainingConfig) -> int:
    """Score jobs of an episode: the agent's, the opponent's and random's."""
    return 1 + (config.agent.self_play != "none") + config.episode.random_reference


def final_jobs(config: TrainingConfig) -> int:
    """Score jobs of the comparison at the end: what is learned, random, rivals, best mask."""
    maskings = LEARNED + 1 + len(config.run.rivals) + (config.data.task == "testbed")
    return config.run.final_episodes * maskings


def build_env(config: TrainingConfig, on: Setup, executor: Any) -> MaskingEnv:
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


def build_agent(config: TrainingConfig, on: Setup, env: MaskingEnv) -> MaskingActorCritic:
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


def jobs_ahead(
    config: TrainingConfig, on: Setup, executor: CachedExecutor, folder: Path, done: int
) -> int:
    """Score jobs that a run has before it after ``done`` episodes, all but the remembered ones.

    What a policy masks that has yet to learn is not known: its jobs all count.
    """
    from nmg.checkpoint import chosen_checkpoint
    from nmg.comparison import RANDOM
    from nmg.forecast import jobs_left
    from nmg.training_callback import is_checkpoint, validation_deals
    from nmg.training_report import final_deals, fixed_maskings, learned_maskings

    def left(deals: Sequence[Deal], maskings: Mapping[str, Any]) -> int:
        numbered = {(config.run.seed, number): deal for number, deal in enumerate(deals)}
        budget, settings = config.episode.budget, config.adaptation
        return jobs_left(on.world, numbered, maskings, executor, budget=budget, settings=settings)

    run = config.run
    checks = sum(is_checkpoint(run, n) for n in range(done + 1, run.episodes + 1))
    jobs = max(0, run.episodes - done) * jobs_per_episode(config)
    if checks:
        deals = validation_deals(config, on.world, run.validation_episodes)
        jobs += checks * len(deals) + left(deals, {RANDOM: on.random})
    if run.final_episodes:
        deals = final_deals(config, on)
        jobs += left(deals, fixed_maskings(config, on))
        if checks:
            jobs += LEARNED * len(deals)
        else:
            checkpoint = chosen_checkpoint(folder)
            jobs += left(deals, learned_maskings(config, checkpoint, folder, on))
    return jobs


def announce(config: TrainingConfig, on: Setup, jobs: int) -> Forecast:
    """Print what the run is and what it will cost."""
    from nmg.forecast import forecast_run
    from nmg.training_callback import validation_deals

    changed: Mapping[str, Any] = differences(config)
    print("Settings that differ from the defaults: " + (_listed(changed) or "none"))
    if on.about:
        print(on.about)
    predicted = forecast_run(config, on, validation_deals(config, on.world, 1)[0], jobs)
    print(predicted, flush=True)
    return predicted


def _listed(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in settings.items())
