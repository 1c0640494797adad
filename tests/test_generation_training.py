"""``nmg train --task generation``: fragments are played, learned from, resumed and placed."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents.actor_critic import MaskingActorCritic
from agents.fragments import densest_fragment
from envs.adaptation.generation_scorer import GenerationScorer
from envs.fragment_env import FragmentMaskingEnv
from envs.models.loading import load_seq2seq
from envs.models.states import TokenStates
from envs.tasks.generation import Generation
from nmg.assembly import training_setup
from nmg.checkpoint import checkpoints
from nmg.cli import main
from nmg.evaluation import masking_job, observe
from nmg.generation import Arm, arm_jobs, arms, gather
from nmg.generation_config import GenerationComparison, GenerationConfig, GenerationData
from nmg.options import ConfigError
from nmg.probe import job_tokens, probe
from nmg.resolution import resolve_training
from nmg.run_folders import trained_settings
from nmg.run_log import read_records
from tests.stub_world import StubExecutor, StubWorld
from tests.tiny_run import train_arguments, write_pairs

pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("generation"))


@pytest.fixture(scope="module")
def arguments(place):
    more = ["--task", "generation", "--budget", "0.5"]
    return [*train_arguments(place, place / "model"), *more]


@pytest.fixture(scope="module")
def learned(arguments, place):
    """The run folder of a policy."""
    run = place / "runs" / "mine"
    more = ["--final-episodes", "2", "--rivals", "idf"]
    assert main([*arguments, *more, "--output", str(run)]) == 0
    return run


def is_fragment(mask, maskable, length):
    """Whether it is contiguous among the maskable tokens, and has the length."""
    places = np.flatnonzero(np.asarray(mask)[np.asarray(maskable, bool)])
    return len(places) == np.sum(mask) == length and (np.diff(places) == 1).all()


@pytest.mark.parametrize(
    ("bits", "budget", "fragment", "outside"),
    [
        ("010011", 3, "000111", 1),  # the stretch with most of the bits, special tokens left out
        ("010101", 2, "011000", 2),  # the earliest of several
        ("000000", 2, "011000", 0),  # always as long as the budget
        ("111111", 9, "011111", 1),
    ],
)
def test_what_an_agent_names_is_gathered(bits, budget, fragment, outside):
    mask = np.array([int(bit) for bit in bits])
    seen = {"maskable": np.array([0, 1, 1, 1, 1, 1]), "budget": np.array([budget])}
    got = densest_fragment(mask, seen)
    assert ("".join(map(str, got[0])), *got[1:]) == (fragment, outside, 0)


def test_the_agent_learns_from_the_fragments_that_were_played(tiny_tokenizer, monkeypatch):
    executor, world = StubExecutor(), StubWorld(tiny_tokenizer)
    env = FragmentMaskingEnv(world, executor, budget=0.3, reading=densest_fragment)
    agent = MaskingActorCritic(env, seed=0)
    agent.attach_opponent()
    named, learned, stored = [], [], []

    def spy(owner, method, note):
        real = getattr(owner, method)

        def watched(*given):
            result = real(*given)
            note(given, result)
            return result

        monkeypatch.setattr(owner, method, watched)

    spy(agent.rollouts, "mask", lambda given, mask: named.append(mask))
    spy(agent.experience, "learn", lambda given, _: learned.append(given))
    spy(agent.memory, "add", lambda given, _: stored.append(given[1]))
    agent.learn(3 * world.contexts)
    assert len(learned) == len(stored) == 3
    scored = {np.concatenate(job.masks).tobytes() for job in executor.jobs}
    for (seen, runs), in_replay in zip(learned, stored, strict=True):
        assert set(runs.masks) == {"agent", "random", "opponent"}
        for masks_BL in runs.masks.values():
            rows = zip(masks_BL, seen.maskable, seen.budget, strict=True)
            assert all(is_fragment(*row) for row in rows)
            assert masks_BL[seen.attention_mask].tobytes() in scored
        assert (in_replay == runs.masks["agent"]).all()
    played = np.concatenate([runs.masks["agent"] for _, runs in learned])
    assert (np.stack(named) != played).any()  # what was named is not what is learned from


def test_a_run_is_as_any_other(learned, capsys):
    records = read_records(learned / "metrics.jsonl")
    assert set(records[0]["score"]) == {"agent", "random", "opponent"}
    assert set(records[0]["score"]["agent"]) == {"bleu", "nll", "perplexity"}
    counts = [record["mask"]["count"] for record in records]
    assert all(len(set(count.values())) == 1 for count in counts)
    assert [path.name for path in checkpoints(learned)] == ["000000", "000002", "000004"]
    rows = json.loads((learned / "results.json").read_text())["rows"]
    names = ["policy", "random", "policy: untrained", "policy: shuffled", "idf"]
    assert [row["masking"] for row in rows] == names
    assert "<svg" in (learned / "report.html").read_text()

    assert main(["mask", "--policy", str(learned), "--text", "the town built a bridge"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("[") == 1
    assert main(["test", "--policy", str(learned)]) == 2
    assert "nmg generation --placement uniform RUN" in capsys.readouterr().err


def test_resumed_equals_uninterrupted(arguments, learned, tmp_path):
    stopped = tmp_path / "stopped"
    assert main([*arguments, "--episodes", "2", "--output", str(stopped)]) == 0
    assert main(["train", "--resume", str(stopped), "--episodes", "4"]) == 0
    for file in ("metrics.jsonl", "checkpoints/000004/policy.safetensors"):
        assert (stopped / file).read_bytes() == (learned / file).read_bytes()


def test_continual_mode_is_resumed_too(arguments, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    arguments = [*arguments, "--continual", "--checkpoint-every", "1"]
    assert main([*arguments, "--episodes", "2", "--output", str(whole)]) == 0
    assert main([*arguments, "--episodes", "1", "--output", str(stopped)]) == 0
    assert main(["train", "--resume", str(stopped), "--episodes", "2"]) == 0
    assert (whole / "metrics.jsonl").read_bytes() == (stopped / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_workers_give_the_scores_of_this_process(arguments, tmp_path):
    runs = [tmp_path / name for name in ("here", "there")]
    for run, workers in zip(runs, ("1", "2"), strict=True):
        more = ["--workers", workers, "--episodes", "2", "--output", str(run)]
        assert main([*arguments, *more]) == 0
    assert (runs[0] / "metrics.jsonl").read_bytes() == (runs[1] / "metrics.jsonl").read_bytes()


def test_a_forecast_counts_what_encoder_and_decoder_read(learned):
    config = resolve_training(trained_settings(learned))
    on = training_setup(config.data, config.episode)
    deal = on.world.deal(np.random.SeedSequence(0))
    job = masking_job(
        on.world,
        deal,
        on.random,
        name="random",
        budget=0.5,
        settings=config.adaptation,
        run=0,
        number=0,
    )
    seen = observe(on.world, deal, 0.5)
    for row, (context, mask) in enumerate(zip(job.contexts, job.masks, strict=True)):
        assert is_fragment(mask, context.maskable, seen["budget"][row, 0])
    cost = on.scorer(job).cost
    keys = ("pretrain_tokens", "finetune_tokens", "eval_tokens")
    assert list(job_tokens(job).values()) == [cost[key] for key in keys]
    # A remembered pre-training would look like millions of tokens a second.
    rates = probe(on.scorer, job, seconds=0.5)
    assert all(0 < rate < 5e6 for rate in rates.values())


def test_states_are_the_encoders(place):
    model = load_seq2seq(str(place / "model"))
    rows = model.tokenizer(["the bridge", "in 1902 the town built it"])["input_ids"]
    states = TokenStates(model)
    assert (states.embedding_width, states.width) == (16, 32)
    ids = model.batch([np.array(row) for row in rows]).numpy()
    real = np.array([[n < len(row) for n in range(ids.shape[1])] for row in rows])
    features = states(ids, real, np.arange(2))
    assert features.shape == (*ids.shape, 32)
    assert not features[~real].any()
    model.model.eval()
    alone = model.model.get_encoder()(input_ids=model.batch([np.array(rows[0])]))
    expected = alone.last_hidden_state.detach().numpy()[0]
    assert features[0, : len(rows[0]), 16:] == pytest.approx(expected, abs=1e-5)


def placed(place, *placement, **more):
    comparison = GenerationComparison(placement=placement, pairs=(4,), test_examples=2, **more)
    data = GenerationData(dataset=str(place), model=str(place / "model"))
    return GenerationConfig(data, comparison)


def test_a_learned_policy_places_fragments(place, learned):
    config = placed(place, "uniform", str(learned))
    names = [arm.name for arm in arms(config.comparison)]
    assert names == ["none", "mass k=0.5", "mass k=0.5 at mine"]
    model = load_seq2seq(str(place / "model"))
    material = gather(config, model, Generation(model.tokenizer))
    arm = Arm("mass", 0.5, str(learned))
    job, again, other = (dict(arm_jobs(config, material, arm, seed))[4] for seed in (1, 1, 2))
    assert job.key == again.key != other.key
    for context, mask in zip(job.contexts, job.masks, strict=True):
        assert is_fragment(mask, context.maskable, max(1, round(0.5 * context.maskable.sum())))
    corpus = len(material.corpus)
    visits = [mask.tobytes() for mask in job.masks[::corpus]]
    assert len(visits) == config.adaptation.pretrain_epochs
    assert len(set(visits)) > 1  # drawn anew at each visit
    with pytest.raises(ConfigError, match="Two arms are called"):
        arms(placed(place, str(learned), str(learned) + "/").comparison)


def test_the_table_has_a_row_for_it_and_remembers_its_scores(
    place, learned, tmp_path, capsys, monkeypatch
):
    out = tmp_path / "results"
    command = [
        *("generation", "--dataset", str(place), "--model", str(place / "model")),
        *("--max-target-length", "12", "--pretrain-epochs", "1", "--finetune-epochs", "1"),
        *("--seeds", "2", "--test-examples", "3", "--pairs", "4", "--output", str(out)),
        *("--placement", "uniform", str(learned)),
    ]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "mass k=0.5 at mine" in told
    assert "chosen on training data" in told
    assert len(list((out / "scores").glob("*/plain/*.json"))) == 3 * 2
    before = (out / "results.json").read_bytes()
    calls = []
    monkeypatch.setattr(GenerationScorer, "__call__", lambda *given: calls.append(given))
    assert main(command) == 0
    assert not calls
    assert (out / "results.json").read_bytes() == before


def test_wrong_policies_are_one_sentence(place, learned, tmp_path, capsys):
    where = ["--corpus", str(place / "corpus.txt"), "--output", str(tmp_path / "other")]
    size = ["--width", "16", "--layers", "1", "--heads", "2", "--length", "64"]
    assert main(["new-lm", "--vocab-size", "300", *where, *size]) == 0
    for model, run, message in (
        (tmp_path / "other", learned, "was made for a vocabulary of"),
        (place / "model", tmp_path / "absent", "the folder does not exist"),
    ):
        capsys.readouterr()
        out = tmp_path / "results"
        command = ["generation", "--dataset", str(place), "--model", str(model), "--pairs", "4"]
        assert main([*command, "--placement", str(run), "--output", str(out)]) == 2
        printed = capsys.readouterr().err.strip()
        assert message in printed
        assert "\n" not in printed
        assert not out.exists()
