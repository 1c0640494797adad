"""nmg test: one table over the same seeds, null controls, resumed without computing twice."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from tiny_run import train_arguments, write_model, write_texts

from envs.adaptation.scorer import Scorer
from envs.models.loading import load_language_model
from envs.references import UniformRandom
from envs.rendering import painted
from envs.spaces import token_budget
from envs.text.corpus import build_corpus
from nmg import forecast
from nmg.cli import main
from nmg.comparison import as_json, tabulate
from nmg.config import TestingConfig, TrainingConfig
from nmg.mask_command import mask_corpus, masked_spans
from nmg.maskings import policy_name
from nmg.options import build, read_settings
from nmg.run_folders import write_settings
from nmg.statistics import seeds_needed
from nmg.testing import gather_maskings
from nmg.testing_setup import build_test_setup
from tests.conftest import SENTENCES
from tests.stub_world import Everything, StubExecutor, StubWorld, stub_score


@pytest.fixture
def run(tmp_path, tiny_masked_lm, tiny_tokenizer):
    data = write_texts(tmp_path / "data")
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    folder = tmp_path / "policy_neural"
    arguments = train_arguments(data, model)
    assert main([*arguments, "--episodes", "1", "--output", str(folder)]) == 0
    return folder


def test_policies_strategies_and_controls_share_the_seeds(run, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    command = ["test", "--policy", str(run), "--strategy", "idf", "--workers", "1"]
    command += ["--contexts", "8", "--examples", "10", "--test-examples", "6", "--output", str(out)]
    assert main([*command, "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    for word in (
        "policy_neural: untrained",
        "policy_neural: shuffled",
        "none",
        "accuracy - random",
    ):
        assert word in printed
    results = json.loads((out / "results.json").read_text())
    assert results["headline"] == "accuracy"
    assert results["seeds"] == [0, 1]
    assert all(len(row["scores"]) == 2 for row in results["rows"])
    assert set(results["rows"][0]["means"]) == {"accuracy", "macro_f1", "micro_f1", "nll"}
    assert (out / "report.html").is_file()

    jobs = []
    score = Scorer.__call__
    monkeypatch.setattr(Scorer, "__call__", lambda self, job: jobs.append(job) or score(self, job))
    assert main([*command, "--seeds", "2"]) == 0
    again = json.loads((out / "results.json").read_text())
    assert again["rows"] == results["rows"]
    assert not jobs  # no probe either
    assert "nothing is left to compute" in capsys.readouterr().out
    probes, probe = [], forecast.probe

    def probing(*given):
        rates = probe(*given)
        probes.extend(jobs)
        return rates

    monkeypatch.setattr(forecast, "probe", probing)
    assert main([*command, "--seeds", "3"]) == 0
    assert f"Forecast: {len(results['rows'])} score jobs" in capsys.readouterr().out
    assert len(jobs) - len(probes) == len(results["rows"])  # the new seed only
    more = json.loads((out / "results.json").read_text())
    assert [row["scores"][:2] for row in more["rows"]] == [row["scores"] for row in results["rows"]]

    assert main([*command, "--budget", "0.5"]) == 2
    assert "already holds another run" in capsys.readouterr().err
    kept = (out / "results.json").read_bytes()
    for fewer, lost in (
        (["--no-controls"], "policy_neural: untrained, policy_neural: shuffled"),
        (["--seeds", "2"], "seed 2"),
    ):
        assert main([*command, "--seeds", "3", *fewer]) == 2
        assert f"would remove: {lost}; ask" in capsys.readouterr().err
    (run / "checkpoints/000001").rename(run / "checkpoints/000002")  # another policy of that name
    assert main([*command, "--seeds", "3"]) == 2
    assert "would remove: policy_neural (" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == kept
    (out / "resolved.yaml").write_text("seeds: 2\nk: 0.5")  # of nmg generation
    assert main([*command, "--seeds", "3"]) == 2
    assert "already holds another run" in capsys.readouterr().err


def test_random_may_be_the_mean_of_several_draws(run, tmp_path, capsys, monkeypatch):
    command = ["test", "--config", str(run / "resolved.yaml"), "--contexts", "8", "--seeds", "2"]
    command += ["--test-examples", "6", "--output", str(tmp_path / "out"), "--workers", "1"]
    scored = []
    score = Scorer.__call__

    def scores(self, job):
        scored.append((job, score(self, job)))
        return scored[-1][1]

    monkeypatch.setattr(Scorer, "__call__", scores)
    monkeypatch.setattr(forecast, "probe", lambda *_: dict.fromkeys(forecast.PHASES, 1.0))
    assert main(command) == 0
    once, first = results_of(tmp_path / "out"), list(scored)
    assert main([*command, "--random-draws", "3"]) == 0
    thrice, more = results_of(tmp_path / "out"), scored[len(first) :]
    assert "The row random is the mean of 3 maskings" in capsys.readouterr().out
    assert len(more) == 4  # two draws of two seeds; the rest was remembered
    masked = [job for job, _ in [*first, *more] if job.masks is not None]
    assert len({job.key for job in masked}) == 6
    assert len({job.seed for job in masked}) == 2
    assert thrice["none"] == once["none"]
    for seed in {job.seed for job in masked}:
        nll = [s.metrics["nll"] for job, s in [*first, *more] if job.seed == seed and job.masks]
        assert any(pair["nll"] == pytest.approx(np.mean(nll)) for pair in thrice["random"])
    assert set(thrice) == {"random", "none"}
    assert main([*command, "--random-draws", "2"]) == 2
    assert "would remove: random, draw 3; ask" in capsys.readouterr().err
    assert main([*command, "--random-draws", "0"]) == 2


def results_of(folder):
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return {row["masking"]: row["scores"] for row in rows}


def test_scores_of_another_model_are_not_remembered_for_this_one(run, tmp_path):
    command = ["test", "--task", "classification", "--dataset", str(run.parent / "data")]
    command += ["--model", str(run.parent / "model"), "--seeds", "2", "--workers", "1"]
    command += ["--contexts", "8", "--examples", "10", "--test-examples", "6", "--window", "24"]
    weights, tables = run.parent / "model/model.safetensors", []
    for factor in (1.0, 1.5):
        save_file({k: factor * v for k, v in load_file(weights).items()}, weights, {"format": "pt"})
        out = tmp_path / f"out{factor}"
        assert main([*command, "--output", str(tmp_path / "same")]) == 0
        assert main([*command, "--output", str(out)]) == 0
        tables.append(json.loads((out / "results.json").read_text())["rows"])
        assert json.loads((tmp_path / "same/results.json").read_text())["rows"] == tables[-1]
    assert tables[0] != tables[1]


def test_the_line_on_the_data_counts_what_there_is(run):
    trained = read_settings(run / "resolved.yaml")
    trained = {name: trained[name] for name in ("task", "dataset", "model", "window", "max_length")}
    about = build_test_setup(
        build(TestingConfig, {**trained, "contexts": 999, "examples": 999})
    ).about
    (contexts, all_contexts), (examples, all_examples) = re.findall(r"(\d+) of (\d+)", about)
    assert (contexts, examples) == (all_contexts, all_examples)


def test_a_policy_for_another_vocabulary_is_refused(run, capsys):
    path = run / "checkpoints" / "000001" / "agent.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "vocab_size": about["vocab_size"] + 1}))
    assert main(["test", "--policy", str(run), "--output", str(run / "out")]) == 2
    assert "was made for a vocabulary of" in capsys.readouterr().err
    path.write_text("[]")
    assert main(["test", "--policy", str(run), "--output", str(run / "out")]) == 2
    assert "agent.json is damaged (it holds a list)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "flags", "words"),
    [
        ({}, "--task qa --dataset squad", "on the testbed, but the task is qa"),
        (
            {"task": "qa", "dataset": "squad", "model": "bert"},
            "--task testbed --dataset easy",
            "on text (qa), but the task is testbed",
        ),
    ],
)
def test_a_policy_of_the_testbed_is_not_used_on_text(settings, flags, words, tmp_path, capsys):
    write_settings(tmp_path, build(TrainingConfig, settings))
    (tmp_path / "agent.json").touch()
    out = tmp_path / "out"
    command = ["test", "--policy", str(tmp_path), *flags.split(), "--output", str(out)]
    assert main(command) == 2
    assert f"{tmp_path} was learned {words}; it cannot be used there" in capsys.readouterr().err


def test_a_run_called_as_a_strategy_keeps_its_row(tmp_path, monkeypatch):
    monkeypatch.setattr("nmg.maskings.load_policy", lambda *args: "learned")
    config = build(TestingConfig, {"controls": False})
    world = SimpleNamespace(vocab_size=9)
    setup = SimpleNamespace(world=world, states=None, best=None)
    for name in ("random", "none"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "agent.json").touch()
    runs = [tmp_path / "random", tmp_path / "none"]
    maskings, used = gather_maskings(config, setup, runs, [], 0)
    assert list(maskings) == ["random (2)", "none (2)", "random", "none"]
    assert [maskings[name].policy for name in used] == ["learned", "learned"]


def test_a_policy_masks_a_text(run, capsys, monkeypatch):
    text = "The river rises in the northern hills and flows south to the sea."
    monkeypatch.setenv("NO_COLOR", "1")
    assert main(["mask", "--policy", str(run), "--text", text]) == 0
    plain = capsys.readouterr().out
    assert plain.replace("[", "").replace("]", "").strip() == text
    assert plain.count("[") >= 1
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    model = json.loads(json.dumps(str(run.parent / "model")))
    command = ["mask", "--strategy", "whole-word", "--model", model, "--text", text]
    assert main([*command, "--budget", "0.3"]) == 0
    assert "\x1b[" in capsys.readouterr().out


def test_a_fixed_strategy_needs_no_model_but_its_tokenizer(run, capsys):
    model = run.parent / "model"
    command = ["mask", "--strategy", "span", "--model", str(model), "--budget", "0.3", "--text"]
    (model / "model.safetensors").unlink()
    assert main([*command, "The river rises in the northern hills."]) == 0
    assert "[" in capsys.readouterr().out
    (model / "config.json").unlink()
    assert main([*command, "The river rises in the northern hills."]) == 2
    assert "There is no language model" in capsys.readouterr().err


def test_strategies_that_count_are_shown_with_a_corpus_to_count_in(run, tmp_path, capsys):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("the river\n\nthe river and the sea\n\nthe river and the town\n")
    command = ["mask", "--model", str(run.parent / "model"), "--text", "the river and the sea"]

    def shown(strategy, *more):
        code = main([*command, "--budget", "0.2", "--strategy", strategy, *more])
        printed = capsys.readouterr()
        return printed.out.strip() if code == 0 else printed.err

    assert shown("idf", "--corpus", str(corpus)) == "the river and the [sea]"
    assert shown("common", "--corpus", str(corpus)) == "[the] river and the sea"
    for name in ("idf", "common", "rare", "keyword", "pmi"):
        assert "a single context; give other text to count in by --corpus." in shown(name)
        assert "[" in shown(name, "--corpus", str(corpus), str(corpus))
    assert "[" in shown("idf", "--window", "3")  # two contexts, to count in each other
    told = shown("span", "--corpus", str(corpus))
    assert "but the strategy span counts in no corpus" in told
    assert told.count("\n") == 1
    policy = ["mask", "--policy", str(run), "--text", "a", "--corpus", str(corpus)]
    assert main(policy) == 2
    assert "a policy counts in no corpus" in capsys.readouterr().err


def test_a_folder_called_as_the_testbeds_model_is_a_folder(run, capsys, monkeypatch):
    made = []

    def generated_setup(dataset):
        made.append(dataset)
        model = load_language_model(str(run.parent / "model"))
        return SimpleNamespace(states=SimpleNamespace(language_model=model))

    monkeypatch.setattr("nmg.assembly.generated_setup", generated_setup)
    monkeypatch.chdir(run.parent)
    (run.parent / "tiny").symlink_to("model")
    settings = read_settings(run / "resolved.yaml")

    def shown(*arguments):
        assert main(["mask", *arguments, "--text", "The river flows to the sea."]) == 0
        return capsys.readouterr().out

    def trained_with(**changed):
        (run / "resolved.yaml").write_text(json.dumps({**settings, **changed}))
        return "--policy", str(run)

    span = ("--strategy", "span", "--budget", "0.3", "--model")
    assert shown(*trained_with(model="tiny")) == shown(*trained_with(model="./tiny"))
    assert shown(*span, "tiny") == shown(*span, "./tiny")
    assert not made
    # A run on the testbed knows its model, whatever lies beside it.
    shown(*trained_with(task="testbed", dataset="easy", model="tiny"))
    assert made == ["easy"]
    (run.parent / "tiny").unlink()
    shown(*span, "tiny")
    assert made == ["easy", "testbed"]


def test_a_character_of_several_tokens_is_shown_once(bpe_tokenizer):
    text = "to the sea 🌊, é"
    corpus = build_corpus([text], bpe_tokenizer, 64)
    masks = [context.maskable & (context.input_ids > 5) for context in corpus]
    (spans,) = masked_spans(corpus, masks, [text], 64)
    shown = painted(text, spans, colour=False)
    assert shown.replace("[", "").replace("]", "") == text


def test_a_policy_that_knows_no_rules_is_shown_within_them(bpe_tokenizer):
    corpus = build_corpus(SENTENCES, bpe_tokenizer, 16)
    masks = mask_corpus(corpus, Everything(), 0.25)
    assert [int(mask.sum()) for mask in masks] == [token_budget(each, 0.25) for each in corpus]
    assert not any(
        mask[~context.maskable].any() for mask, context in zip(masks, corpus, strict=True)
    )


def test_runs_are_compared_by_what_differs(run, tmp_path, capsys):
    other = tmp_path / "other"
    arguments = ["train", "--config", str(run / "resolved.yaml"), "--budget", "0.4"]
    assert main([*arguments, "--episodes", "1", "--output", str(other)]) == 0
    capsys.readouterr()
    assert main(["diff", str(run), str(other)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["setting", "policy_neural", "other"]
    assert lines[1].split() == ["budget", "0.2", "0.4"]
    assert lines[2] == ""
    assert lines[-1].count("none asked for") == 2


def test_runs_are_told_apart_by_their_names(tmp_path, capsys, monkeypatch):
    def heads(*runs: str) -> list[str]:
        capsys.readouterr()
        assert main(["diff", *runs]) == 0
        return capsys.readouterr().out.splitlines()[-2].split()[1:]

    for place in ("a/x", "a/y", "b/x"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "resolved.yaml").write_text("seed: 1")
    monkeypatch.chdir(tmp_path / "a/x")
    assert heads(".", "../y") == ["x", "y"]
    assert heads(".", "../../b/x") == ["a/x", "b/x"]
    assert heads("../x", "../x/") == ["x", "x"]
    assert policy_name(Path("."), []) == "x"


def test_a_result_that_is_no_number_is_a_dash_and_a_damaged_one_is_told(tmp_path, capsys):
    table = tabulate(
        {"random": [{"nll": math.nan}], "idf": [{"nll": 0.5}]},
        headline="nll",
        higher_is_better=False,
    )
    for name, results in (("one", as_json(table)), ("other", as_json(table)), ("bad", [1])):
        (tmp_path / name).mkdir()
        (tmp_path / name / "resolved.yaml").write_text("seed: 1")
        (tmp_path / name / "results.json").write_text(json.dumps(results))
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "other")]) == 0
    assert "random (nll)  -      -\nidf (nll)     0.500  0.500" in capsys.readouterr().out
    for damaged in ("[1]", "{}", '{"headline": "nll", "rows": [1]}'):
        (tmp_path / "bad" / "results.json").write_text(damaged)
        assert main(["diff", str(tmp_path / "one"), str(tmp_path / "bad")]) == 2
        assert "results.json is damaged" in capsys.readouterr().err
    (tmp_path / "bad" / "resolved.yaml").write_text("seed: 1\n1: 2")
    assert main(["diff", str(tmp_path / "one"), str(tmp_path / "bad")]) == 2
    assert "resolved.yaml: the key 1 is no text" in capsys.readouterr().err


def test_entities_of_an_uncased_model_come_from_the_texts(run, tmp_path, recwarn):
    model, corpus = run.parent / "model", tmp_path / "corpus.txt"
    corpus.write_text("\n".join(SENTENCES))
    adapt = ["--corpus", str(corpus), "--output", str(tmp_path / "adapted"), "--epochs", "1"]
    assert main(["adapt", "--model", str(model), "--strategy", "entity", *adapt]) == 0
    trained = ["--final-episodes", "1", "--rivals", "entity", "--episodes", "1"]
    arguments = train_arguments(run.parent / "data", model)
    assert main([*arguments, *trained, "--output", str(tmp_path / "trained")]) == 0
    shared = arguments[2 : arguments.index("--episodes")]
    assert main(["noise", *shared, "--strategy", "entity", "--deals", "2"]) == 0
    assert not [warning for warning in recwarn if "capitals" in str(warning.message)]


def test_strategies_that_ask_the_model_are_compared(run, tmp_path, capsys):
    general = tmp_path / "general.txt"
    general.write_text("\n".join(SENTENCES))
    command = ["test", "--config", str(run / "resolved.yaml"), "--seeds", "1", "--contexts", "8"]
    command += ["--test-examples", "6", "--output", str(tmp_path / "out"), "--workers", "1"]
    command += ["--strategy", "entropy"]
    assert main([*command, "--strategy", "difference"]) == 2
    assert "give a file of that by --reference" in capsys.readouterr().err
    assert main([*command, "--reference", str(general)]) == 2
    assert "only the strategy difference reads it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    command += ["--reference", str(general)]
    assert main([*command, "--strategy", "difference"]) == 0
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    scores = {row["masking"]: row["scores"] for row in rows}
    assert set(scores) == {"random", "none", "entropy", "difference"}
    assert len({str(score) for score in scores.values()}) == 4
    model = str(run.parent / "model")
    mask = ["mask", "--model", model, "--text", SENTENCES[0]]
    assert main([*mask, "--strategy", "entropy"]) == 0
    assert "[" in capsys.readouterr().out
    general.write_text("\n".join(SENTENCES[1:]))
    assert main([*mask, "--strategy", "difference", "--reference", str(general)]) == 0
    assert "[" in capsys.readouterr().out
    assert main([*mask, "--strategy", "idf", "--reference", str(general)]) == 2
    assert "only the strategy difference reads it" in capsys.readouterr().err


def test_noise_separates_masks_from_seeds(capsys):
    import numpy as np

    from nmg.noise_command import noise_of

    rng = np.random.default_rng(0)
    differences = rng.normal(0, 3, (4000, 1)) + rng.normal(0, 1, (4000, 5))
    noise = noise_of(differences)
    assert noise.seeds == pytest.approx(1, rel=0.05)
    assert noise.masks == pytest.approx(3, rel=0.05)
    assert noise.wrong_sign < 0.15
    assert noise_of(rng.normal(size=(4000, 5))).wrong_sign == pytest.approx(0.5, abs=0.02)


def test_noise_compares_two_maskings_that_share_their_seeds(tiny_tokenizer):
    import numpy as np

    from nmg.noise_command import measure

    executor, deals, repeats = StubExecutor(), 3, 4
    on = SimpleNamespace(world=StubWorld(tiny_tokenizer), random=UniformRandom())
    config = build(TrainingConfig, {"budget": 0.2})
    found = measure(config, on, executor, deals, repeats)["accuracy"]
    pairs = list(zip(executor.jobs[::2], executor.jobs[1::2], strict=True))
    assert all(one.seed == other.seed for one, other in pairs)
    assert len({one.seed for one, _ in pairs}) == deals * repeats
    drawn = [[np.concatenate(job.masks).tobytes() for job in pair] for pair in pairs]
    assert all(drawn[n] == drawn[n - n % repeats] for n in range(len(drawn)))  # repeats share them
    assert len({mask for pair in drawn for mask in pair}) == 2 * deals
    expected = [
        stub_score(one).metrics["accuracy"] - stub_score(other).metrics["accuracy"]
        for one, other in pairs
    ]
    np.testing.assert_array_equal(found, np.reshape(expected, (deals, repeats)))


def test_noise_is_told_with_the_effects_that_it_hides():
    import numpy as np

    from nmg.noise_command import describe

    # Variance 2 over seeds; of the means 8, from which 2 / 2 is taken off; in all 9.
    lines = describe("nll", np.array([[1.0, 3.0], [-1.0, -3.0]]), False, pair=2.0).splitlines()
    assert lines[0] == "nll (lower is better)"
    assert "sd 1.414 over training seeds, sd 2.646 over masks" in lines[1]
    effects = ", ".join(f"{effect:g}: {seeds_needed(3, effect)}" for effect in (1.5, 3, 6))
    assert lines[4].endswith(f"(80% power): {effects}")


def test_the_seeds_asked_for_make_the_sign_right_nine_times_in_ten():
    import numpy as np

    from nmg.noise_command import Noise, seeds_for_sign

    seeds = seeds_for_sign(Noise(seeds=2.0, masks=1.0, wrong_sign=0.4))
    assert seeds is not None
    rng = np.random.default_rng(0)
    true_N = rng.normal(size=400_000)
    for count, enough in ((seeds, True), (seeds - 4, False)):
        seen_N = true_N + rng.normal(size=len(true_N)) * 2.0 / count**0.5
        assert (np.mean(np.sign(seen_N) == np.sign(true_N)) >= 0.9) == enough
    assert seeds_for_sign(Noise(seeds=2.0, masks=0.0, wrong_sign=0.5)) is None


def test_fixed_strategies_are_compared_with_random_on_training_data(run, capsys):
    arguments = ["noise", "--config", str(run / "resolved.yaml"), "--deals", "2", "--repeats", "0"]
    capsys.readouterr()
    assert main([*arguments, "--strategy", "none", "idf"]) == 0
    printed = capsys.readouterr().out
    before, first, second, *_, after = printed.strip().split("\n\n")
    assert before.startswith("Forecast: 6 score jobs")
    assert after.startswith("Took")
    assert [line.split()[0] for line in first.splitlines()[2:]] == ["random", "none", "idf"]
    assert "nll - random" in second
    assert main(arguments) == 2
    assert "--repeats 0" in capsys.readouterr().err
