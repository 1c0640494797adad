"""``nmg generation``: arms, jobs that share what they can, tables, resuming."""

from __future__ import annotations

import errno
import json
import os
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MBartTokenizer
from transformers.models.mbart.tokenization_mbart import FAIRSEQ_LANGUAGE_CODES

from envs.adaptation.generation_objective import target_losses
from envs.adaptation.generation_scorer import GenerationScorer
from envs.adaptation.mass import fragment_length
from envs.generation_building import build_generation_world
from envs.models.loading import load_language_model, load_seq2seq
from envs.models.new_model import ModelSize, new_model
from envs.models.seq2seq import Seq2SeqModel
from envs.tasks.generation import Generation
from envs.text.corpus import build_corpus, target_language
from envs.text.examples import GenerationExample
from nmg.cli import main
from nmg.generation import arm_jobs, gather
from nmg.generation_amt import AdversarialObjective
from nmg.generation_arms import Arm, arms
from nmg.generation_command import diverged
from nmg.generation_config import (
    GenerationAdaptation,
    GenerationComparison,
    GenerationConfig,
    GenerationData,
)
from nmg.mask_command import _language_model
from nmg.options import ConfigError
from tests.conftest import SENTENCES
from tests.stub_world import Everything
from tests.tiny_run import write_pairs

pytest.importorskip("sacrebleu")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("generation"))


@pytest.fixture(scope="module")
def bert(place):
    where = ["--corpus", str(place / "corpus.txt"), "--output", str(place / "bert")]
    small = ["--width", "16", "--layers", "1", "--heads", "2", "--vocab-size", "330"]
    assert main(["new-lm", "--architecture", "bert", *where, *small]) == 0
    return place / "bert"


def command(place, output, *more):
    return main(
        [
            *("generation", "--dataset", str(place), "--model", str(place / "model")),
            *("--max-target-length", "12", "--pretrain-epochs", "1", "--finetune-epochs", "1"),
            *("--seeds", "2", "--test-examples", "3", "--output", str(output), *more),
        ]
    )


def config_of(place, **comparison):
    data = GenerationData(dataset=str(place), model=str(place / "model"))
    return GenerationConfig(data, GenerationComparison(**comparison))


def test_arms_by_name():
    comparison = GenerationComparison(
        objective=("mass", "scattered", "amt"), k=(0, 0.5, 1), placement=("uniform", "idf")
    )
    assert [arm.name for arm in arms(comparison)] == [
        "none",
        "mass k=one token",
        "mass k=0.5",
        "mass k=all",
        "mass k=one token at idf",
        "mass k=0.5 at idf",
        "mass k=all at idf",
        "scattered k=0.5",
        "amt",
    ]
    chosen = GenerationComparison(objective=("mass", "scattered"), k=(0, 1), scattered_k=(0.5,))
    assert arms(chosen)[-1].name == "scattered k=0.5"
    alone = GenerationComparison(objective=("scattered",), k=(0, 1))
    assert [arm.name for arm in arms(alone)][1:] == ["scattered k=one token", "scattered k=all"]


def test_a_last_score_that_cannot_be_written_is_told(place, tmp_path, capsys, monkeypatch):
    """Each of the two kinds of arms has one job alone."""
    write_text = Path.write_text

    def full(path, *given, **options):
        if "scores" in path.parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, *given, **options)

    monkeypatch.setattr(Path, "write_text", full)
    alone = ["--objective", "amt", "--pairs", "3", "--seeds", "1"]
    assert command(place, tmp_path / "out", *alone) == 2
    assert "no space is left on the disk" in capsys.readouterr().err


def test_jobs_of_one_seed_share_everything_but_the_masks(place):
    config = config_of(place, pairs=(3, 6), test_examples=2)
    model = load_seq2seq(str(place / "model"))
    material = gather(config, model, Generation(model.tokenizer))
    assert len(material.test) == 2
    arms_of = [Arm("none"), Arm("mass", 0.5), Arm("scattered", 0.5), Arm("mass", 0.5, "idf")]
    jobs = {arm.name: dict(arm_jobs(config, material, arm, seed=1)) for arm in arms_of}
    for by_count in jobs.values():
        assert [len(job.train) for job in by_count.values()] == [3, 6]
        few, more = ({id(pair) for pair in job.train} for job in by_count.values())
        assert few < more
        assert more == {id(pair) for pair in jobs["none"][6].train}
    visits, contexts = config.adaptation.pretrain_epochs, len(material.corpus)
    for name in ("mass k=0.5", "scattered k=0.5", "mass k=0.5 at idf"):
        masks = jobs[name][3].masks
        assert len(masks) == visits * contexts
        first = [masks[visit * contexts] for visit in range(visits)]
        sizes = {int(mask.sum()) for mask in first}
        assert sizes == {max(1, round(0.5 * int(material.corpus[0].maskable.sum())))}
        if name != "mass k=0.5 at idf":
            assert len({mask.tobytes() for mask in first}) > 1
        if name.startswith("mass"):
            assert all((np.diff(np.flatnonzero(mask)) == 1).all() for mask in masks)
    again = dict(arm_jobs(config, material, Arm("mass", 0.5), seed=1))
    other = dict(arm_jobs(config, material, Arm("mass", 0.5), seed=2))
    assert again[3].key == jobs["mass k=0.5"][3].key != other[3].key
    mine = jobs["mass k=0.5"][3]
    assert {id(pair) for pair in other[3].train} != {id(pair) for pair in mine.train}
    assert [mask.tobytes() for mask in other[3].masks] != [mask.tobytes() for mask in mine.masks]


def test_a_placement_that_knows_no_rules_keeps_to_them(place):
    """No special token, and as many as a fragment has."""
    config = config_of(place, pairs=(3,), test_examples=2)
    model = load_seq2seq(str(place / "model"))
    material = gather(config, model, Generation(model.tokenizer))
    material = replace(material, policies={"own": Everything()})
    ((_, job),) = arm_jobs(config, material, Arm("mass", 0.25, "own"), seed=1)
    for context, mask in zip(job.contexts, job.masks, strict=True):
        assert not mask[~context.maskable].any()
        assert mask.sum() == fragment_length(int(context.maskable.sum()), 0.25)


def test_a_strategy_names_half_as_many_tokens_as_its_fragment_has(place, monkeypatch):
    asked = []

    class Spy(Everything):
        def predict(self, observation, *rest, **options):
            asked.extend(observation["budget"][:, 0].tolist())
            return super().predict(observation, *rest, **options)

    monkeypatch.setattr("agents.strategies.make_strategy", lambda name, **given: Spy())
    config = config_of(place, pairs=(3,), test_examples=2)
    model = load_seq2seq(str(place / "model"))
    material = gather(config, model, Generation(model.tokenizer))
    ((_, job),) = arm_jobs(config, material, Arm("mass", 0.5, "idf"), seed=1)
    assert asked[-len(job.masks) :] == [round(mask.sum() / 2) for mask in job.masks]


@pytest.fixture(scope="module")
def two_languages(tmp_path_factory):
    """Pairs of two languages and an mBART, which marks a text with its language at the end."""
    folder = tmp_path_factory.mktemp("languages")
    letters = [("\u2581", -2.0), *((letter, -3.0) for letter in "abcdefghijklmnopqrstuvwxyz")]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    codes = [(code, 0.0) for code in FAIRSEQ_LANGUAGE_CODES]
    tokenizer = MBartTokenizer(vocab=[*special, *letters, *codes, ("<mask>", 0.0)])
    tokenizer.model_max_length = 64
    model = new_model("mbart", "seq2seq", tokenizer, ModelSize(16, 1, 2, 64))
    Seq2SeqModel("mbart", model, tokenizer).save(folder / "model")
    for split, letters in (("train", "abcdef"), ("test", "uvwxyz")):
        pairs = [{"source": f"the sea {n}", "target": f"das meer {n}"} for n in letters]
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    return folder


def mbart(two_languages):
    return load_seq2seq(str(two_languages / "model"), languages=("en_XX", "de_DE"))


@pytest.mark.parametrize("side", ["both", "source", "target"])
def test_texts_are_pre_trained_on_in_their_language(two_languages, side):
    """Those of the target as they are fine-tuned on, and as generation starts."""
    model = mbart(two_languages)
    data = GenerationData(str(two_languages), model=str(two_languages / "model"), side=side)
    config = GenerationConfig(data, GenerationComparison(pairs=(3,)))
    task = Generation(model.tokenizer)
    material = gather(config, model, task)
    job = dict(arm_jobs(config, material, Arm("mass", 0.5), seed=0))[3]
    sequences = GenerationScorer(model, task)._sequences(job, range(len(material.corpus)))
    english, german = model.tokenizer.convert_tokens_to_ids(["en_XX", "de_DE"])
    expected = [english] * 6 * (side != "target") + [german] * 6 * (side != "source")
    assert [each.encoder_ids[-1] for each in sequences] == expected
    assert [each.decoder_ids[0] for each in sequences] == expected
    pair = material.train[0]
    assert (pair.source_ids[-1], pair.target_ids[-1]) == (english, german)
    assert model.start_ids == (german,)
    assert model.tokenizer("the sea")["input_ids"][-1] == english


@pytest.mark.parametrize(("side", "code"), [("source", "en_XX"), ("target", "de_DE")])
def test_a_worlds_texts_are_in_their_language(two_languages, side, code):
    model = mbart(two_languages)
    task = Generation(model.tokenizer)
    world = build_generation_world(two_languages, model, task, side=side)
    (last,) = {int(context.input_ids[-1]) for context in world.corpus}
    assert model.tokenizer.convert_ids_to_tokens(last) == code
    assert model.tokenizer.src_lang == "en_XX"
    # What a policy learned of marked texts it is shown in texts that are marked alike.
    trained = {"task": "generation", "languages": ["en_XX", "de_DE"], "side": side}
    shown = _language_model(str(two_languages / "model"), trained).tokenizer("das")["input_ids"]
    assert shown[-1] == last


def test_the_source_language_is_put_back_after_an_error(two_languages):
    tokenizer = mbart(two_languages).tokenizer

    def fail():
        with target_language(tokenizer):
            assert tokenizer.src_lang == "de_DE"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert tokenizer.src_lang == "en_XX"
    last = tokenizer("the sea")["input_ids"][-1]
    assert tokenizer.convert_ids_to_tokens(last) == "en_XX"


def test_without_languages_a_target_is_a_text_as_any_other(place):
    tokenizer = load_seq2seq(str(place / "model")).tokenizer
    corpora = [build_corpus(SENTENCES, tokenizer, 20, targets) for targets in ((), SENTENCES)]
    for one, other in zip(*corpora, strict=True):
        assert one.input_ids.tobytes() == other.input_ids.tobytes()
        assert one.maskable.tobytes() == other.maskable.tobytes()


def test_as_many_steps_whatever_the_number_of_pairs(place):
    config = config_of(place, pairs=(3, 6, 0), test_examples=2, split="dev")
    config = replace(config, adaptation=GenerationAdaptation(finetune_steps=12, finetune_batch=2))
    model = load_seq2seq(str(place / "model"))
    material = gather(config, model, Generation(model.tokenizer))
    jobs = dict(arm_jobs(config, material, Arm("none"), seed=0))
    visits = {count: job.settings.finetune_epochs for count, job in jobs.items()}
    assert visits == {3: 6, 6: 4, 0: max(1, round(24 / len(material.train)))}


def test_what_is_scored_is_neither_pre_trained_on_nor_fine_tuned_on(tmp_path, place, capsys):
    turns = [
        "where is the old mill by the river now",
        "it burned down",
        "when was that",
        "long ago",
    ]
    dialogue = [{"source": " ".join(turns[:n]), "target": turns[n]} for n in (1, 2, 3)]
    others = [{"source": f"{n} {text}", "target": "no"} for n, text in enumerate(SENTENCES)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, dialogue + others)))
    (tmp_path / "test.jsonl").write_text(json.dumps(dialogue[1]))
    data = GenerationData(str(tmp_path), model=str(place / "model"))
    config = GenerationConfig(data, GenerationComparison(pairs=(3,)))
    model = load_seq2seq(str(place / "model"))
    setup = gather(config, model, Generation(model.tokenizer))
    assert [pair.example.source for pair in setup.train] == [row["source"] for row in others]
    assert "3 training pairs, which hold what is scored, were left out" in setup.about
    assert not [text for text in setup.corpus.texts if "mill" in text or "when" in text]
    (tmp_path / "train.jsonl").write_text(json.dumps(dialogue[1]))
    assert command(tmp_path, tmp_path / "out", "--model", str(place / "model")) == 2
    assert "Every training pair of" in capsys.readouterr().err


def test_a_table_for_each_number_of_pairs_and_no_work_twice(place, tmp_path, capsys):
    out = tmp_path / "results"
    arguments = ["--objective", "mass", "--k", "0.5", "--pairs", "2", "4"]
    assert command(place, out, *arguments) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "fine-tuned on 2 pairs" in told
    assert "Forecast: 8 score jobs" in told  # two arms, two seeds, two numbers of pairs
    assert "Took" in told
    assert "mass k=0.5" in told
    assert "bleu - none [95%]" in told
    first = json.loads((out / "results.json").read_text())
    assert set(first["pairs"]) == {"2", "4"}
    rows = first["pairs"]["2"]["rows"]
    assert [row["masking"] for row in rows] == ["none", "mass k=0.5"]
    assert len(rows[1]["scores"]) == 2
    assert rows[1]["versus_none"]["pairs"] == 2
    other = tmp_path / "other"
    assert command(place, other, "--objective", "none", "--pairs", "2") == 0
    capsys.readouterr()
    assert main(["diff", str(out), str(other)]) == 0
    told = capsys.readouterr().out
    assert "mass k=0.5 (bleu), 4 pairs" in told
    assert "none (bleu), 2 pairs" in told

    scores = sorted((out / "scores").glob("*/plain/*.json"))
    stamps = [path.stat().st_mtime_ns for path in scores]
    assert command(place, out, *arguments, "--k", "0.5", "1") == 0
    assert "Forecast: 4 score jobs" in capsys.readouterr().out  # of the arm that is new
    after = sorted((out / "scores").glob("*/plain/*.json"))
    assert len(after) == len(scores) + 4
    assert [path.stat().st_mtime_ns for path in scores] == stamps
    assert command(place, out, *arguments, "--beams", "2") == 2
    assert "already holds another run, with another beams" in capsys.readouterr().err
    written = (out / "results.json").read_bytes()
    for fewer, lost in (
        (["--objective", "none", "--pairs", "2", "4"], "mass k=0.5, mass k=all"),
        ([*arguments[:4], "1", "--pairs", "2"], "fine-tuned on 4 pairs"),
        ([*arguments, "--k", "0.5", "1", "--seeds", "1"], "seed 1"),
    ):
        assert command(place, out, *fewer) == 2
        assert f"would remove: {lost}; ask" in capsys.readouterr().err
    assert (out / "results.json").read_bytes() == written


def test_an_arm_that_diverged_is_told(place, tmp_path, capsys):
    """Where it is the pre-training alone, the reference is fine, and nothing is said of it."""
    diverging = ["--pairs", "2", "3", "--pretrain-lr", "1e30", "--precision", "fp32"]
    assert command(place, tmp_path, "--objective", "mass", *diverging) == 0
    sentence = (
        "mass k=0.5, fine-tuned on {} pairs: the training diverged in 2 of 2 seeds; its scores say "
        "nothing; give a lower --finetune-lr or --pretrain-lr.\n"
    )
    for text in (capsys.readouterr().out, (tmp_path / "table.txt").read_text()):
        assert sentence.format(2) + sentence.format(3) in text
        assert text.count("training diverged") == 2
    scores = [{"nll": 1.0}, {"nll": float("nan")}, {"nll": float("inf")}]
    assert diverged({0: {"none": scores}}, [Arm("none")]) == [
        "none: the training diverged in 2 of 3 seeds; its scores say nothing; "
        "give a lower --finetune-lr."
    ]


def test_an_unknown_placement_is_told_before_anything_is_written(place, tmp_path, capsys):
    out = tmp_path / "results"
    placed = ["--objective", "mass", "--pairs", "2", "--placement", "uniform", "sallient"]
    assert command(place, out, *placed) == 2
    assert "did you mean 'salient'" in capsys.readouterr().err
    assert not out.exists()


def test_another_objective_has_scores_of_its_own(place):
    changed = ({}, {"ratio": 0.3}, {"mask_embedding": "learned"}, {"smoothing": 0.0})
    prints = [AdversarialObjective(config_of(place, **each)).fingerprint for each in changed]
    assert len(set(prints)) == 4
    assert AdversarialObjective(config_of(place)).fingerprint == prints[0]
    model = load_seq2seq(str(place / "model"))
    task = Generation(model.tokenizer)
    made = [
        GenerationScorer(model, task, objective=objective).fingerprint
        for objective in (None, *(AdversarialObjective(config_of(place, **c)) for c in changed))
    ]
    assert len(set(made)) == 5


def test_what_is_fused_in_reads_the_source_as_it_was_cut(place, bert):
    """And no more, whatever it takes; what was not cut it reads to the end."""
    model = load_seq2seq(str(place / "model"))
    source = " ".join(SENTENCES)
    data = GenerationData(model=str(place / "model"), prefix="say: ")
    config = GenerationConfig(data, GenerationComparison(objective=("amt",), fused=str(bert)))
    long = Generation(model.tokenizer, max_source_length=60, prefix="say: ")
    short = Generation(model.tokenizer, max_source_length=9, prefix="say: ")
    reader = load_language_model(str(bert)).tokenizer
    for task, text in ((long, SENTENCES[0]), (short, source)):
        (pair,) = task.features([GenerationExample("", text, ("no",))], training=True)
        seen = model.tokenizer.decode(pair.source_ids, skip_special_tokens=True)
        read = reader(seen.removeprefix("say:"))["input_ids"]
        states, _ = AdversarialObjective(config)(model)._states([pair])
        assert states.shape[1] == len(read)
    assert 2 < len(read) < 12


def test_a_batch_that_is_fused_equals_each_pair_alone(place, bert):
    """And the encoder reads what is fused in, not only the decoder."""
    model = load_seq2seq(str(place / "model"))
    comparison = GenerationComparison(objective=("amt",), fused=str(bert))
    config = GenerationConfig(GenerationData(model=str(place / "model")), comparison)
    objective = AdversarialObjective(config)(model).eval()
    model.model.eval()
    texts = ("the river", SENTENCES[0])
    pairs = Generation(model.tokenizer).features(
        [GenerationExample("", text, (SENTENCES[1],)) for text in texts], training=True
    )
    with torch.inference_mode():
        sources = objective._others[0].inputs(pairs)
        _, unread = objective._encode(sources, pairs, None)
        torch.nn.init.normal_(objective.fusion.out.weight)
        _, states = objective._encode(sources, pairs, None)
        assert ((states - unread).abs().amax(dim=(1, 2)) > 1e-3).all()
        together = target_losses(model, objective.inputs(pairs), pairs)
        alone = [target_losses(model, objective.inputs([pair]), [pair]) for pair in pairs]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)
    assert (alone[0] - alone[1]).abs().max() > 1e-3


@pytest.mark.parametrize("fused", [False, True])
def test_adversarial_translation_runs(place, bert, tmp_path, capsys, fused):
    more = []
    if fused:
        copytree(bert, tmp_path / "bert")
        more = ["--fused", str(tmp_path / "bert"), "--mask-embedding", "learned"]
    # The arm before it trains the same model: what it leaves must not be where amt starts.
    outputs = []
    for objectives in (["amt"], ["mass", "amt"]):
        out = tmp_path / objectives[0]
        arguments = ["--objective", *objectives, "--pairs", "4", "--seeds", "1"]
        assert command(place, out, *arguments, *more) == 0, capsys.readouterr().err
        rows = json.loads((out / "results.json").read_text())["pairs"]["4"]["rows"]
        outputs.append({row["masking"]: row["means"] for row in rows})
    assert outputs[0]["amt"] == outputs[1]["amt"]
    assert outputs[0]["none"] == outputs[1]["none"] != outputs[0]["amt"]
    if fused:  # trained anew where it lies: nothing is remembered of the model before
        capsys.readouterr()
        weights = tmp_path / "bert/model.safetensors"
        save_file({name: w * 1.5 for name, w in load_file(weights).items()}, weights)
        arguments = ["--objective", "amt", "--pairs", "4", "--seeds", "1", *more]
        assert command(place, tmp_path / "amt", *arguments) == 0
        assert "Forecast: 1 score job," in capsys.readouterr().out  # not that of `none`


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pairs", "999"], "has 28 training pairs"),
        (["--pairs", "4", "4"], "give each number once"),
        (["--objective", "amt", "--ratio", "0", "--pairs", "4"], "ratio is 0.0"),
        (["--objective", "amt", "--fused", "nowhere/bert", "--pairs", "4"], "nowhere/bert"),
        (["--k", "1.5"], "k is 1.5"),
        (["--model", ""], "Give --model"),
        (["--languages", "de"], "a source and a target"),
        (["--objective", "mas"], "must be one of none, mass"),
        (["--placement", "idff", "--pairs", "3"], "did you mean 'idf'"),
        (["--placement", "uniform", "none", "--pairs", "3"], "placement is none; a fragment"),
    ],
)
def test_errors_are_one_sentence(place, tmp_path, capsys, arguments, message):
    code = None
    with suppress(SystemExit):  # argparse ends the program itself
        code = command(place, tmp_path / "r", *arguments)
    assert code in (None, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "r").exists()


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="pairs is -1"):
        GenerationComparison(pairs=(5, -1))
