"""Named data sets, files and folders as splits; the commands that list, check and write them."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from envs.text.corpus import EmptyCorpusError
from envs.text.datasets import UnknownLabelError, load_splits, split_by_group
from envs.text.examples import TextExample
from envs.text.locate import MissingDataError
from envs.text.named import DATASETS
from envs.text.readers import DataError, read_documents, read_examples
from nmg.data_command import add_parsers, write_corpus


def rows(path: Path, *labelled: str, start: int = 0) -> Path:
    """One row per label, each with a text of its own."""
    lines = (
        json.dumps({"text": f"text {number}", "label": label})
        for number, label in enumerate(labelled, start)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines))
    return path


def squad(path: Path, titles: int, paragraphs: int = 1) -> Path:
    """A SQuAD file: every paragraph has two questions."""

    def paragraph(title: int, number: int) -> dict:
        context = f"{path.stem} {title} {number} knows it."
        answers = [{"text": "knows", "answer_start": context.index("knows")}]
        qas = [
            {"id": f"{path.stem}-{title}-{number}-{q}", "question": "What?", "answers": answers}
            for q in range(2)
        ]
        return {"context": context, "qas": qas}

    data = [
        {"title": f"T{t}", "paragraphs": [paragraph(t, n) for n in range(paragraphs)]}
        for t in range(titles)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"data": data}))
    return path


def sizes(splits) -> dict[str, int]:
    return {name: len(examples) for name, examples in splits.parts().items()}


@pytest.fixture
def chemprot(tmp_path):
    rows(tmp_path / "chemprot" / "train.txt", "A", "B", "A")
    rows(tmp_path / "chemprot" / "dev.txt", "B", start=3)
    rows(tmp_path / "chemprot" / "test.txt", "A", "A", start=4)
    return tmp_path


def test_named_set_from_argument_variable_and_its_own_folder(chemprot, monkeypatch):
    expected = {"train": 3, "dev": 1, "test": 2}
    splits = load_splits("chemprot", data_dir=chemprot)
    assert (splits.name, splits.task, splits.labels) == ("chemprot", "classification", ("A", "B"))
    assert sizes(splits) == expected
    assert sizes(load_splits("chemprot", data_dir=chemprot / "chemprot")) == expected
    monkeypatch.setenv("NMG_DATA", str(chemprot))
    assert sizes(load_splits("chemprot")) == expected
    monkeypatch.delenv("NMG_DATA")
    monkeypatch.chdir(chemprot)
    with pytest.raises(MissingDataError, match=r"in data.chemprot"):
        load_splits("chemprot")


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_an_absent_set_says_where_from_which_licence_and_where_to(tmp_path, name):
    entry = DATASETS[name]
    with pytest.raises(MissingDataError) as caught:
        load_splits(name, data_dir=tmp_path)
    message = str(caught.value)
    assert entry.origin in message
    assert entry.licence in message
    assert str(tmp_path / entry.folders[0]) in message
    for names in entry.files.values():
        assert names[0] in message


def test_generic_file_names_are_not_taken_from_a_foreign_folder(chemprot):
    with pytest.raises(MissingDataError):
        load_splits("scicite", data_dir=chemprot / "chemprot")


def test_squad_falls_back_to_its_first_articles_and_says_so(tmp_path):
    squad(tmp_path / "train_first11-v1.1.json", 2)
    squad(tmp_path / "dev-v1.1.json", 1)
    with pytest.warns(UserWarning, match="first 11 articles"):
        splits = load_splits("squad", data_dir=tmp_path)
    assert sizes(splits) == {"train": 4, "test": 2}
    squad(tmp_path / "squad" / "train-v1.1.json", 5)
    assert sizes(load_splits("squad", data_dir=tmp_path)) == {"train": 10, "test": 2}


def test_a_single_set_is_split_by_article_always_alike(tmp_path):
    path = squad(tmp_path / "new_wiki_v1.0.json", titles=40, paragraphs=3)
    splits = load_splits("squadshifts-new_wiki", data_dir=tmp_path)
    assert sizes(splits) == {"train": 192, "dev": 24, "test": 24}
    titles = [{example.title for example in examples} for examples in splits.parts().values()]
    assert sum(map(len, titles)) == len(set.union(*titles)) == 40
    again = load_splits("squadshifts-new_wiki", data_dir=tmp_path)
    assert again.parts() == splits.parts()
    assert load_splits(path).parts() == splits.parts()


def test_a_single_file_without_articles_is_split_by_text(tmp_path):
    path = rows(tmp_path / "x.jsonl", *["A", "B"] * 20)
    path.write_text(path.read_text() * 3)
    splits = load_splits(path)
    assert sizes(splits) == {"train": 96, "dev": 12, "test": 12}
    assert not {e.text for e in splits.train} & {e.text for e in splits.test}
    assert sizes(load_splits(squad(tmp_path / "one.json", titles=1, paragraphs=20))) == {
        "train": 32,
        "dev": 4,
        "test": 4,
    }
    assert sizes(load_splits(rows(tmp_path / "tiny.jsonl", "A", "B"))) == {"train": 2}


@pytest.mark.parametrize("name", ["x.jsonl", "x.txt"])
def test_the_sentences_of_an_abstract_stay_in_one_split(tmp_path, name):
    abstracts = [[f"We did {n}.", f"It was {n}."] for n in range(20)]
    if name == "x.txt":
        lines = [f"###{n}\nM\t{a}\nR\t{b}\n" for n, (a, b) in enumerate(abstracts)]
    else:
        lines = [json.dumps({"sentences": each, "labels": ["M", "R"]}) for each in abstracts]
    (tmp_path / name).write_text("\n".join(lines))
    splits = load_splits(tmp_path / name)
    assert sizes(splits) == {"train": 32, "dev": 4, "test": 4}
    for examples in splits.parts().values():
        counts = Counter(re.search(r"\d+", each.text)[0] for each in examples)
        assert set(counts.values()) == {2}


def test_another_set_as_test(tmp_path):
    squad(tmp_path / "new_wiki_v1.0.json", titles=20)
    squad(tmp_path / "amazon_reviews_v1.0.json", titles=10)
    squad(tmp_path / "dev-v1.1.json", titles=3)
    splits = load_splits("squadshifts-new_wiki", data_dir=tmp_path, test="squad")
    assert sizes(splits) == {"train": 32, "dev": 4, "test": 6}
    # Nothing of another single set was trained on: all of it is the test.
    splits = load_splits("squadshifts-new_wiki", data_dir=tmp_path, test="squadshifts-amazon")
    assert sizes(splits)["test"] == 20
    own = load_splits("squadshifts-new_wiki", data_dir=tmp_path, test="squadshifts-new_wiki")
    assert sizes(own)["test"] == 4


def test_the_data_set_itself_as_test_is_none_however_it_is_spelled(tmp_path, monkeypatch):
    path = rows(tmp_path / "x.jsonl", *["A", "B"] * 20)
    squad(tmp_path / "new_wiki_v1.0.json", titles=20)
    monkeypatch.chdir(tmp_path)
    Path("link.jsonl").symlink_to(path)
    expected = load_splits("x.jsonl").parts()
    for spelled in ("./x.jsonl", path, "link.jsonl"):
        assert load_splits("x.jsonl", test=spelled).parts() == expected
    own = load_splits("squadshifts-new_wiki", data_dir=".", test=tmp_path / "new_wiki_v1.0.json")
    assert sizes(own) == {"train": 32, "dev": 4, "test": 4}
    rows(tmp_path / "mine" / "train.jsonl", "A", "B")
    rows(tmp_path / "mine" / "dev.jsonl", "A", start=2)
    with pytest.raises(DataError, match=r"train\.jsonl is what mine is trained on"):
        load_splits("mine", test="mine/train.jsonl")
    assert sizes(load_splits("mine", test="mine/dev.jsonl")) == {"train": 2, "test": 1}
    # The dev split is no test where another set is.
    assert sizes(load_splits("mine", test="x.jsonl")) == {"train": 2, "dev": 1, "test": 40}


def test_unknown_labels_in_the_test_split(chemprot):
    rows(chemprot / "other.jsonl", "A", "Z")
    with pytest.raises(UnknownLabelError, match=r"test split of chemprot .* Z \(train has: A, B\)"):
        load_splits("chemprot", data_dir=chemprot, test=chemprot / "other.jsonl")


def test_folders(tmp_path):
    rows(tmp_path / "mine" / "my_train.jsonl", "A", "B")
    rows(tmp_path / "mine" / "notes.txt", "A")
    assert sizes(load_splits(tmp_path / "mine")) == {"train": 2}
    rows(tmp_path / "mine" / "validation-00000-of-00001.jsonl", "A")
    # The only held-out part is the test set.
    assert sizes(load_splits(tmp_path / "mine")) == {"train": 2, "test": 1}
    rows(tmp_path / "mine" / "test.jsonl", "A", "A")
    splits = load_splits(tmp_path / "mine")
    assert (splits.name, sizes(splits)) == ("mine", {"train": 2, "dev": 1, "test": 2})
    rows(tmp_path / "mine" / "more_test.jsonl", "A", "A")
    with pytest.raises(DataError, match="two files for test"):
        load_splits(tmp_path / "mine")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data file whose name says"):
        load_splits(tmp_path / "empty")


@pytest.mark.parametrize("task", [None, "classification"])
def test_what_is_not_asked_for_is_not_read(chemprot, tmp_path, task):
    for folder, ending in ((chemprot / "chemprot", "txt"), (tmp_path / "mine", "jsonl")):
        rows(folder / f"train.{ending}", "A", "B", "A")
        name = folder if ending == "jsonl" else "chemprot"
        for part in ("dev", "test"):
            (folder / f"{part}.{ending}").write_text("{no data")
        options = {"data_dir": chemprot, "task": task, "parts": ("train",)}
        assert sizes(load_splits(name, **options)) == {"train": 3}
        rows(folder / f"test.{ending}", "A", "Z")
        with pytest.raises(UnknownLabelError, match="test split"):
            load_splits(name, **options | {"parts": ("train", "test")})
        with pytest.raises(DataError, match=r"Malformed|is plain text"):
            load_splits(name, **options | {"parts": ("train", "dev")})
        (folder / f"test.{ending}").unlink()  # the only held-out part is the test set
        assert sizes(load_splits(name, **options)) == {"train": 3}


def test_names_and_tasks_that_do_not_fit(chemprot):
    with pytest.raises(FileNotFoundError, match=r"'chemport' is neither a file.*chemprot"):
        load_splits("chemport")
    with pytest.raises(DataError, match="chemprot is a data set for classification, not for qa"):
        load_splits("chemprot", task="qa", data_dir=chemprot)


def test_parallel_text_by_name(tmp_path):
    for stem in ("train", "test_2016_flickr"):
        (tmp_path / "multi30k").mkdir(exist_ok=True)
        (tmp_path / "multi30k" / f"{stem}.en").write_text("a dog\n")
        (tmp_path / "multi30k" / f"{stem}.de").write_text("ein Hund\n")
    splits = load_splits("multi30k", data_dir=tmp_path)
    assert sizes(splits) == {"train": 1, "test": 1}
    assert splits.train[0].targets == ("ein Hund",)


def test_hub_sets_come_through_the_optional_package(monkeypatch):
    class Table(list):
        features = {}  # noqa: RUF012

    def load_dataset(name, config):
        assert (name, config) == ("owner/name", "small")
        return {
            "train": Table([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]),
            "validation": Table([{"text": "c", "label": "x"}]),
        }

    module = types.SimpleNamespace(load_dataset=load_dataset, ClassLabel=type(None))
    monkeypatch.setitem(sys.modules, "datasets", module)
    splits = load_splits("hub:owner/name:small", task="classification")
    assert (splits.name, sizes(splits)) == ("owner-name-small", {"train": 2, "test": 1})
    with pytest.raises(DataError, match="Say which task"):
        load_splits("hub:owner/name:small")
    with pytest.raises(ValueError, match="could not be loaded"):
        load_splits("hub:owner/other", task="qa")


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser()
    add_parsers(parser.add_subparsers())
    args = parser.parse_args([str(argument) for argument in arguments])
    return args.run(args)


def test_data_list_shows_what_is_there(chemprot, capsys):
    assert run("data", "list", "--data-dir", chemprot) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line.split()[2] for line in lines if line.split()[2:3]}
    assert {name for name in DATASETS if states.get(name) == "ready"} == {"chemprot"}
    assert all(states[name] in ("ready", "absent") for name in DATASETS)


def test_data_check_prints_the_table_and_notes(tmp_path, capsys):
    squad(tmp_path / "xquad.en.json", titles=20)
    assert run("data", "check", "xquad", "--data-dir", tmp_path) == 0
    shown = capsys.readouterr()
    assert "every answer is at its offset" in shown.out
    assert "note: every question of xquad is also in SQuAD's dev set" in shown.err


def test_corpus_is_read_back_as_one_document_per_text(tmp_path, capsys):
    path = squad(tmp_path / "x.json", titles=3)
    output = tmp_path / "new" / "corpus.txt"
    assert run("corpus", "--file", path, "--output", output) == 0
    assert "3 texts written" in capsys.readouterr().out
    assert read_documents(output) == read_documents(path)
    assert [each.name for each in output.parent.iterdir()] == ["corpus.txt"]
    again = "corpus", "--task", "qa", "--dataset", path, "--output"
    with pytest.raises(ValueError, match="is there already"):
        run(*again, output)
    assert run(*again, output.with_name("other.txt")) == 0
    assert len(read_documents(output.with_name("other.txt"))) == 3


def test_a_strict_corpus_of_a_file_needs_its_task(tmp_path):
    path, output = squad(tmp_path / "x.json", titles=3), tmp_path / "corpus.txt"
    strict = "corpus", "--file", path, "--output", output, "--strict"
    with pytest.raises(ValueError, match=r"not checked; say whose they are by --task qa\|"):
        run(*strict)
    assert not output.exists()
    assert run(*strict, "--task", "qa") == 0


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "csv.gz"])
def test_a_corpus_under_the_name_of_a_table_is_refused(tmp_path, ending):
    path = squad(tmp_path / "x.json", titles=3)
    with pytest.raises(ValueError, match=r"give a \.txt --output"):
        run("corpus", "--file", path, "--output", tmp_path / f"c.{ending}")
    assert not (tmp_path / f"c.{ending}").exists()


def test_a_corpus_that_begins_with_a_brace_is_read_back(tmp_path):
    texts = ["{x} is a set", "[1] says so", '{"a": 1'] * 2
    for first in range(3):
        output = tmp_path / f"{first}.txt"
        write_corpus(texts[first : first + 3], output)
        assert read_documents(output) == texts[first : first + 3]


def test_corpus_of_texts_with_line_ends_and_repetitions(tmp_path):
    output = tmp_path / "corpus.txt"
    assert write_corpus(["a\n\nb", "c", "a b", " ", "c"], output) == 2
    assert read_documents(output) == ["a b", "c"]
    with pytest.raises(EmptyCorpusError):
        write_corpus([" "], tmp_path / "none.txt")
    assert not (tmp_path / "none.txt").exists()


def test_an_interrupted_corpus_leaves_the_old_one(tmp_path):
    output = tmp_path / "corpus.txt"
    write_corpus(["old"], output)
    with pytest.raises(UnicodeEncodeError):
        write_corpus(["\ud800"], output)
    assert output.read_text() == "old\n"
    assert [each.name for each in tmp_path.iterdir()] == ["corpus.txt"]


COUNTS = {
    "squad": {"train": 3807, "test": 10570},
    "squadshifts-new_wiki": 7938,
    "squadshifts-amazon": 9885,
    "xquad": 1190,
    "chemprot": {"train": 4169, "dev": 2427, "test": 3469},
    "scicite": {"train": 7320, "dev": 916, "test": 1861},
    "csabstruct": {"train": 11333, "dev": 2026, "test": 1349},
    "multi30k": {"train": 29000, "dev": 1014, "test": 1000},
    "scitldr": {"train": 1992, "dev": 619, "test": 618},
    # Utterances less dialogues: every turn but the first is answered.
    "dailydialog": {"train": 87171 - 11118, "dev": 8069 - 1000, "test": 7740 - 1000},
}
"""Published counts; one number for a single published set."""


@pytest.mark.real
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(COUNTS))
def test_real_sets_have_their_published_counts(name):
    folder = os.environ.get("NMG_DATA")
    if not folder:
        pytest.skip("NMG_DATA is not set")
    try:
        splits = load_splits(name, data_dir=folder)
    except MissingDataError as error:
        pytest.skip(str(error))
    found, expected = sizes(splits), COUNTS[name]
    if name == "squad" and found["train"] != 3807:
        expected = {"train": 87599, "test": 10570}
    assert (found if isinstance(expected, dict) else sum(found.values())) == expected
    assert not any(splits.skipped.values())


@pytest.mark.real
@pytest.mark.parametrize(("part", "articles"), [("train", 600), ("valid", 60), ("test", 60)])
def test_real_wikitext_has_its_published_articles(part, articles):
    found = list((Path(os.environ.get("NMG_DATA", "none")) / "wikitext-2").glob(f"{part}.txt*"))
    if not found:
        pytest.skip("no wikitext-2 under NMG_DATA")
    assert len(read_documents(found[0])) == articles


@pytest.mark.real
def test_real_contexts_survive_the_way_through_a_corpus_file(tmp_path):
    found = list((Path(os.environ.get("NMG_DATA", "none")) / "squad_v1.1").glob("dev-v1.1.json*"))
    if not found:
        pytest.skip("no SQuAD under NMG_DATA")
    contexts = {example.context for example in read_examples(found[0], "qa").examples}
    assert write_corpus(contexts, tmp_path / "c.txt") == len(contexts) == 2067
    assert len(read_documents(tmp_path / "c.txt")) == 2067


def test_a_label_that_is_seen_once_is_trained_on():
    rows = [TextExample(str(n), f"text number {n}", "usual") for n in range(60)]
    rows += [TextExample(f"r{n}", f"rare text {n}", f"rare {n}") for n in range(40)]
    train, dev, test = split_by_group(rows)
    assert dev
    assert test
    assert {e.label for e in (*dev, *test)} <= {e.label for e in train}
    assert len(train) + len(dev) + len(test) == len(rows)
