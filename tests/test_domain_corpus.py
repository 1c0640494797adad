"""A corpus and few labels on the command line: what is masked, left out and refused."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter

import pytest
from tiny_run import train_arguments, write_model, write_texts

from envs.adaptation.scorer import Scorer
from nmg import forecast
from nmg.cli import main

OWN = [f"the cell number {n} binds the protein of the growth" for n in range(12)]
"""Documents with no text of the data set."""


def texts(data, part: str) -> list[str]:
    return [json.loads(line)["text"] for line in (data / f"{part}.jsonl").read_text().splitlines()]


@pytest.fixture
def data(tmp_path):
    return write_texts(tmp_path / "data")


@pytest.fixture
def arguments(data, tmp_path, tiny_masked_lm, tiny_tokenizer):
    model = write_model(tmp_path / "model", tiny_masked_lm, tiny_tokenizer)
    return [*train_arguments(data, model), "--episodes", "2", "--labelled", "4"]


@pytest.fixture
def jobs(monkeypatch):
    """The score jobs that are run."""
    run, score = [], Scorer.__call__
    monkeypatch.setattr(Scorer, "__call__", lambda self, job: run.append(job) or score(self, job))
    return run


def masked(jobs, tokenizer) -> set[str]:
    """The texts of all contexts, as the tokenizer writes them."""
    return {
        tokenizer.decode(context.input_ids, skip_special_tokens=True)
        for job in jobs
        for context in job.contexts
    }


def written(given, tokenizer) -> set[str]:
    """The same of given texts."""
    return {tokenizer.decode(tokenizer(t).input_ids, skip_special_tokens=True) for t in given}


def labelled(jobs) -> set[tuple[str, ...]]:
    """The labels of the examples of each job, as far as they differ."""
    return {tuple(feature.example.label for feature in job.train) for job in jobs}


def left_out(printed: str) -> tuple[int, int]:
    """Documents given, and left out, as the line says."""
    line = r"(\d+) documents; left out, because .* eight words or more .*: (\d+)\."
    given, out = re.findall(line, printed)[0]
    return int(given), int(out)


def test_the_corpus_is_masked_and_few_labels_are_trained_on(
    arguments, data, tmp_path, tiny_tokenizer, jobs, capsys
):
    documents = [*OWN, *texts(data, "train"), *texts(data, "test")]
    corpus, run = tmp_path / "domain.txt.gz", tmp_path / "a_neural"
    corpus.write_bytes(gzip.compress("\n".join(documents).encode()))
    everything = ["--corpus", str(corpus), "--contexts", "100", "--output", str(run)]
    assert main([*arguments, *everything]) == 0
    whole = [job for job in jobs if len(job.contexts) > 6]  # not those of the forecast
    scored = {feature.example.text for feature in whole[0].score}
    kept = [text for text in documents if text not in scored]
    assert left_out(capsys.readouterr().out) == (len(documents), len(documents) - len(kept))
    assert masked(whole, tiny_tokenizer) == written(kept, tiny_tokenizer)
    (labels,) = labelled(whole)
    assert Counter(labels) == {"good": 2, "bad": 2}

    jobs.clear()
    command = ["test", "--policy", str(run), "--seeds", "2", "--no-controls"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    whole = [job for job in jobs if len(job.contexts) > 6]
    kept = [text for text in documents if text not in texts(data, "test")]
    assert left_out(capsys.readouterr().out) == (len(documents), len(documents) - len(kept))
    assert masked(whole, tiny_tokenizer) == written(kept, tiny_tokenizer)
    (labels,) = labelled(whole)
    assert Counter(labels) == {"good": 2, "bad": 2}
    assert "domain.txt.gz" in (tmp_path / "out/report.html").read_text()

    jobs.clear()
    command += ["--corpus", "none", "--seeds", "1", "--output", str(tmp_path / "without")]
    assert main(command) == 0
    assert not masked(jobs, tiny_tokenizer) & written(OWN, tiny_tokenizer)


def test_noise_is_measured_on_the_corpus(
    arguments, tmp_path, tiny_tokenizer, jobs, capsys, monkeypatch
):
    monkeypatch.setattr(forecast, "probe", lambda *args: dict.fromkeys(forecast.PHASES, 10.0))
    (tmp_path / "domain.txt").write_text("\n".join(OWN))
    sizes = ["--deals", "2", "--repeats", "2", "--corpus", str(tmp_path / "domain.txt")]
    names = ("task", "dataset", "model", "workers", "window", "max-length")
    settings = [part for name in names for part in _given(arguments, f"--{name}")]
    assert main(["noise", *settings, *sizes]) == 0
    printed = capsys.readouterr().out
    assert left_out(printed) == (len(OWN), 0)
    tokens = float(re.findall(r"Forecast: 8 score jobs, ([\d.]+) k tokens", printed)[0]) * 1000
    seconds = float(re.findall(r"A pair of score jobs takes about (.*) s by itself", printed)[0])
    assert seconds == pytest.approx(2 * tokens / 8 / 10, rel=0.01)  # not what the clock said
    assert masked(jobs, tiny_tokenizer) <= written(OWN, tiny_tokenizer)


def _given(arguments, flag) -> list[str]:
    at = arguments.index(flag)
    return arguments[at : at + 2]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.txt", None, "There is no file"),
        ("empty.txt", "\n", "is empty"),
        ("blank.jsonl", '{"text": ""}\n', "holds no text"),
        ("a table.csv", "text,label\na,b\n", "nmg corpus --output FILE.txt --file '/"),
    ],
)
@pytest.mark.parametrize("program", ["train", "test", "noise"])
def test_a_file_that_is_no_corpus_is_told_before_a_model_is_loaded(
    tmp_path, data, capsys, program, name, content, message
):
    if content is not None:
        (tmp_path / name).write_text(content)
    command = [program, "--task", "classification", "--dataset", str(data), "--model", "absent"]
    command += ["--corpus", str(tmp_path / name)]
    if program != "noise":
        command += ["--output", str(tmp_path / "out")]
    assert main(command) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_corpus_of_nothing_but_scored_text_is_refused(arguments, data, tmp_path, capsys):
    corpus = tmp_path / "domain.txt"
    corpus.write_text("\n".join(texts(data, "test")))
    settings = [*_given(arguments, "--dataset"), *_given(arguments, "--model")]
    command = ["test", "--task", "classification", *settings, "--corpus", str(corpus)]
    assert main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "Nothing is left of the corpus: each document (20)" in capsys.readouterr().err
