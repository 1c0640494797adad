"""Readers: every format gives the right examples, every kind of damage one clear sentence."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

from envs.text.readers import (
    DataError,
    GenerationExample,
    QuestionExample,
    TextExample,
    guess_task,
    read_documents,
    read_examples,
)

CONTEXT = "Marie Holt, an engineer from Arden, designed the bridge in three months."
HOLT = {"text": "Marie Holt", "answer_start": 0}
FLAT = {"context": CONTEXT, "question": "Where?"}
ARDEN = {"text": "Arden", "answer_start": CONTEXT.index("Arden")}


def squad(*questions: dict, context: str = CONTEXT, title: str = "Bridge") -> dict:
    return {"data": [{"title": title, "paragraphs": [{"context": context, "qas": questions}]}]}


def question(name: str, *answers: dict, **more: object) -> dict:
    return {"id": name, "question": f"Who is {name}?", "answers": list(answers), **more}


def write(path: Path, content: object) -> Path:
    """Text as it is, anything else as JSON, a list as JSON lines; packed if the name says so."""
    if isinstance(content, list):
        text = "".join(json.dumps(row) + "\n" for row in content)
    else:
        text = content if isinstance(content, str) else json.dumps(content)
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ending", ["json", "json.gz"])
def test_squad(tmp_path, ending, indent):
    text = json.dumps(squad(question("a", HOLT, ARDEN)), indent=indent)
    path = write(tmp_path / f"train.{ending}", text)
    loaded = read_examples(path, "qa")
    answers = (("Marie Holt", 0), ("Arden", 29))
    assert loaded.examples == [QuestionExample("a", "Bridge", CONTEXT, "Who is a?", answers)]
    assert loaded.skipped == {}
    assert guess_task(path) == "qa"


def test_squad_2_keeps_impossible_questions(tmp_path):
    impossible = question("b", is_impossible=True, plausible_answers=[HOLT])
    path = write(tmp_path / "x.json", squad(question("a", HOLT, is_impossible=False), impossible))
    first, second = read_examples(path, "qa").examples
    assert (first.is_impossible, second.is_impossible) == (False, True)
    assert second.answers == ()


def mrqa_row(*detected: dict) -> dict:
    qa = {"qid": "q1", "id": "other", "question": "Who?", "detected_answers": list(detected)}
    return {"context": CONTEXT, "qas": [qa], "context_tokens": []}


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz"])
def test_mrqa_skips_its_header_and_takes_the_context_form(tmp_path, ending):
    # The ends of MRQA's spans are inclusive; its texts may differ in case from the context.
    answer = {"text": "marie holt", "char_spans": [[0, 9], [0, 9]]}
    path = write(tmp_path / f"x.{ending}", [{"header": {"dataset": "X"}}, mrqa_row(answer)])
    [example] = read_examples(path, "qa").examples
    assert example.id == "q1"
    assert example.answers == (("Marie Holt", 0), ("Marie Holt", 0))
    assert guess_task(path) == "qa"
    assert read_documents(path) == [CONTEXT]


def test_mrqa_counts_spans_that_do_not_hold_the_answer(tmp_path):
    row = mrqa_row({"text": "Arden", "char_spans": [[0, 9], [29, 33], [-3, 2]]})
    loaded = read_examples(write(tmp_path / "x.jsonl", [row]), "qa")
    assert loaded.examples[0].answers == (("Arden", 29),)
    assert loaded.skipped == {"answers not at their offset": 2}


def test_mrqa_accepts_the_answers_that_were_not_detected(tmp_path):
    row = mrqa_row({"text": "marie holt", "char_spans": [[0, 9]]})
    row["qas"][0]["answers"] = ["marie holt", "M. Holt", "the engineer Holt", "M. Holt", ""]
    path = write(tmp_path / "x.jsonl", [row])
    [example] = read_examples(path, "qa").examples
    assert example.answers == (("Marie Holt", 0),)
    assert example.accepted == ("M. Holt", "the engineer Holt")
    row["qas"][0]["answers"] = [{"text": "Holt"}]
    with pytest.raises(DataError, match=r"'answers' of question q1, .* holds .*; expected texts"):
        read_examples(write(path, [row]), "qa")


def test_flat_rows_as_on_the_hub(tmp_path):
    answers = {"text": ["Arden"], "answer_start": [29]}
    row = {"id": "a", "title": "T", "context": CONTEXT, "question": "Where?", "answers": answers}
    none = {**row, "id": "b", "answers": {"text": [], "answer_start": []}}
    first, second = read_examples(write(tmp_path / "x.jsonl", [row, none]), "qa").examples
    assert first.answers == (("Arden", 29),)
    assert second.is_impossible


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"is_impossible": "false"}, "questions whose is_impossible is not true or false"),
        (
            {"answers": {"text": ["Arden", "Holt"], "answer_start": [29]}},
            "questions with other counts of answers and offsets",
        ),
    ],
)
def test_damaged_questions_are_counted_and_skipped_or_an_error(tmp_path, change, reason):
    answers = {"text": ["Arden"], "answer_start": [29]}
    row = {"id": "a", "context": CONTEXT, "question": "Where?", "answers": answers}
    marked = [{**row, "is_impossible": mark} for mark in (0, False, None, 1)]
    path = write(tmp_path / "x.jsonl", [{**row, **change}, *marked])
    loaded = read_examples(path, "qa")
    assert [each.is_impossible for each in loaded.examples] == [False, False, False, True]
    assert loaded.skipped == {reason: 1}
    with pytest.raises(DataError, match=f"{reason}, at question a, line 1"):
        read_examples(path, "qa", strict=True)


def test_misplaced_answers_are_counted_and_skipped_or_an_error(tmp_path):
    wrong = {"text": "Arden", "answer_start": 3}
    path = write(
        tmp_path / "x.json", squad(question("a", wrong, ARDEN), question("b", wrong), question("c"))
    )
    loaded = read_examples(path, "qa")
    assert [(each.id, each.answers) for each in loaded.examples] == [("a", (("Arden", 29),))]
    assert loaded.skipped == {
        "answers not at their offset": 2,
        "questions left without an answer": 2,
    }
    with pytest.raises(DataError, match=r"not at their offset, at question a"):
        read_examples(path, "qa", strict=True)


def test_empty_contexts_and_questions_are_counted(tmp_path):
    document = squad(question("a", HOLT), {**question("b", HOLT), "question": " "})
    document["data"] += squad(question("c", HOLT), context="  ")["data"]
    loaded = read_examples(write(tmp_path / "x.json", document), "qa")
    assert len(loaded.examples) == 1
    assert loaded.skipped == {"empty questions": 1, "empty contexts": 1}


ROWS = [{"text": "good film", "label": "pos"}, {"text": "sad end", "label": "neg", "id": "r7"}]
TEXTS = [TextExample("0", "good film", "pos"), TextExample("r7", "sad end", "neg")]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl", ROWS),
        ("x.jsonl.gz", ROWS),
        ("x.txt", ROWS),  # what SciBERT's copies look like
        ("x.json", json.dumps(ROWS, indent=1)),
        ("x.jsonl", "\ufeff" + "\r\n\r\n".join(map(json.dumps, ROWS))),
        ("x.csv", "id,label,text\n,pos,good film\nr7,neg,sad end\n"),
        ("x.csv.gz", '\ufefftext,label,id\r\n"good film",pos,\r\nsad end,neg,r7\r\n'),
        ("x.tsv", "text\tlabel\tid\ngood film\tpos\t\nsad end\tneg\tr7\n"),
    ],
)
def test_labelled_texts(tmp_path, name, content):
    path = write(tmp_path / name, content)
    assert read_examples(path, "classification").examples == TEXTS
    assert guess_task(path) == "classification"
    assert read_documents(path) == ["good film", "sad end"]


def test_delimited_files_with_other_columns_quotes_and_line_ends(tmp_path):
    path = write(tmp_path / "x.csv", 'gold,sentence\npos,"a ""big"", long\nfilm"\n')
    [example] = read_examples(path, "classification", columns=("sentence", "gold")).examples
    assert (example.text, example.label) == ('a "big", long\nfilm', "pos")
    path = write(tmp_path / "x.tsv", 'sentence\tgold\n"never closed\tpos\nnext\tneg\n')
    first, _ = read_examples(path, "classification", columns=("sentence", "gold")).examples
    assert first.text == '"never closed'


def test_abstracts_give_one_row_per_sentence(tmp_path):
    rows = [{"sentences": ["We do.", "It is."], "labels": ["method", "result"], "confs": [1, 1]}]
    path = write(tmp_path / "x.jsonl", rows)
    assert read_examples(path, "classification").examples == [
        TextExample("0-0", "We do.", "method", "we do it is"),
        TextExample("0-1", "It is.", "result", "we do it is"),
    ]
    assert guess_task(path) == "classification"
    assert read_documents(path) == ["We do. It is."]


def test_pubmed_rct(tmp_path):
    path = write(tmp_path / "train.txt", "###123\nMETHODS\tWe did .\nRESULTS\tIt was .\n\n###5\n")
    examples = read_examples(path, "classification").examples
    assert [(each.text, each.label) for each in examples] == [
        ("We did .", "METHODS"),
        ("It was .", "RESULTS"),
    ]
    assert len({each.group for each in examples}) == 1
    assert guess_task(path) == "classification"
    assert read_documents(path) == ["We did . It was ."]
    write(path, "### Methods\nWe did .\n")  # a heading of Markdown
    assert read_documents(path) == ["### Methods", "We did ."]


def test_null_and_nan_cells_are_counted(tmp_path):
    content = '{"text": NaN, "label": "a"}\n{"text": "x", "label": null}\n{"text": 7, "label": 1}\n'
    path = write(tmp_path / "x.jsonl", content)
    loaded = read_examples(path, "classification")
    assert loaded.examples == [TextExample("2", "7", "1")]
    assert loaded.skipped == {"empty texts": 1, "rows without a label": 1}
    with pytest.raises(DataError, match="empty texts, at line 1"):
        read_examples(path, "classification", strict=True)


def test_summaries_join_sources_and_keep_every_target(tmp_path):
    rows = [{"source": ["One.", "Two."], "target": ["a", "b"], "paper_id": "p"}]
    path = write(tmp_path / "x.jsonl", rows)
    assert read_examples(path, "generation").examples == [
        GenerationExample("p", "One. Two.", ("a", "b"))
    ]
    assert guess_task(path) == "generation"


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_parallel_text(tmp_path, packed):
    source = write(tmp_path / f"val.en{packed}", "a dog\n\na cat\n")
    write(tmp_path / f"val.de{packed}", "ein Hund\nnichts\neine Katze\n")
    loaded = read_examples(source, "generation", columns=("en", "de"))
    pairs = [(each.source, each.targets) for each in loaded.examples]
    assert pairs == [("a dog", ("ein Hund",)), ("a cat", ("eine Katze",))]
    assert loaded.skipped == {"empty sources": 1}


def test_parallel_text_of_unequal_length_is_an_error(tmp_path):
    source = write(tmp_path / "val.en", "a\nb\n")
    with pytest.raises(FileNotFoundError, match=r"expected val\.de beside it"):
        read_examples(source, "generation", columns=("en", "de"))
    write(tmp_path / "val.de", "a\n")
    with pytest.raises(DataError, match="2 lines"):
        read_examples(source, "generation", columns=("en", "de"))


def test_dialogues(tmp_path):
    path = write(tmp_path / "d.txt", "Hi . __eou__ Ho ? __eou__ Bye . __eou__\nAlone __eou__\n")
    assert guess_task(path) == "generation"
    assert read_examples(path, "generation").examples == [
        GenerationExample("0-1", "Hi .", ("Ho ?",), "0"),
        GenerationExample("0-2", "Hi .\nHo ?", ("Bye .",), "0"),
    ]
    assert read_documents(path) == ["Hi .\nHo ?\nBye .", "Alone"]


@pytest.mark.parametrize(
    ("content", "documents"),
    [
        ("one\ntwo\nthree\n", ["one", "two", "three"]),
        ("\n\none\ntwo\n\n", ["one", "two"]),
        ("one\ntwo\n\nthree\n", ["one\ntwo", "three"]),
        (
            # WikiText; a formula inside a paragraph can look like a title.
            " \n = One = \n \n a \n = 3 = \n c \n \n = = Part = = \n \n d \n \n = Two = \n \n e \n",
            ["a\n= 3 =\nc\nd", "e"],
        ),
        # Only line feeds and carriage returns end a line.
        ("a\x85b\u2028c\r\nd", ["a\x85b\u2028c", "d"]),
    ],
)
def test_plain_text_layouts(tmp_path, content, documents):
    assert read_documents(write(tmp_path / "x.txt", content)) == documents


def test_documents_of_questions_are_the_different_contexts(tmp_path):
    path = write(tmp_path / "x.json", squad(question("a", HOLT), question("b")))
    assert read_documents(path) == [CONTEXT]


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("x.json", "", "qa", "is empty"),
        ("x.jsonl", " \n\n", "classification", "is empty"),
        ("x.json", {"articles": []}, "qa", "not a question file.*it has: articles"),
        ("x.json", {"data": 3}, "qa", "'data' in line 1 of .* is int; expected list"),
        ("x.json", {"data": [{"title": "T"}]}, "qa", r"data\[0\] of .* has no 'paragraphs'"),
        ("x.json", squad({"id": "a", "answers": []}), "qa", r"paragraphs\[0\].* no 'question'"),
        ("x.json", squad(question("a", {"text": "x"})), "qa", "question a.* no 'answer_start'"),
        ("x.json", squad(question("a", "x")), "qa", "has no offset"),  # type: ignore[arg-type]
        ("x.json", '{"data": [', "qa", "Malformed JSON in .*line 1"),
        ("x.json", "[1, 2]", "qa", "row 1 of .* holds a JSON int"),
        ("x.jsonl", '{"text": "a", "label": "b"}\n{"text": ', "classification", "line 2"),
        ("x.jsonl", "[{}]\n[{}]\n", "classification", "begins with a list and goes on at line 2"),
        ("x.jsonl", [{"text": ["a"], "label": "b"}], "classification", "line 1 .* a JSON list"),
        ("x.jsonl", [{"source": "a", "target": {}}], "generation", "line 1 of .* a JSON dict"),
        ("x.jsonl", [ROWS[0], {"text": "\ud83d", "label": "b"}], "classification", "of line 2 of"),
        ("x.json", "[" * 100_000, "qa", "Malformed JSON in .* nested too deeply"),
        ("x.jsonl", '{"source": "a", "target": 1}\n' + "1" * 5000, "generation", "line 2 .*digits"),
        ("x.json", "1" * 5000, "qa", "too many digits"),
        ("x.jsonl", [{**FLAT, "answers": {"text": "a", "answer_start": 0}}], "qa", "'text' in .*"),
        ("x.jsonl", [{**FLAT, "answers": {"text": [], "answer_start": None}}], "qa", "is null"),
        ("x.jsonl", [*ROWS, {"text": "c"}], "classification", "line 3 of .* has no 'label'"),
        ("x.jsonl", [{"sentences": ["a"], "labels": []}], "classification", "1 sentences and 0"),
        ("x.csv", "a,b\n1,2\n", "classification", "line 2 of .* no 'text'; it has: a, b"),
        ("x.csv", "text,label\n1\n", "classification", "line 2 .* the 2 fields of the header"),
        ("x.csv", 'text,label\n"open,1\n', "classification", "Malformed csv"),
        ("x.txt", "just words\n", "qa", "is plain text"),
        ("x.txt", "###1\nno tab\n", "classification", "line 2 of .* has no tab"),
        ("x.jsonl", [{"source": "a"}], "generation", "has no 'target'"),
        ("x.jsonl", [{"text": "", "label": "a"}], "classification", "no usable .*1 empty texts"),
        ("x.jsonl", ROWS, "glue", "no task 'glue'"),
    ],
)
def test_wrong_content_is_one_clear_sentence(tmp_path, name, content, task, message):
    path = write(tmp_path / name, content)
    with pytest.raises(DataError, match=message):
        read_examples(path, task)


def test_missing_damaged_and_wrongly_encoded_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.json"):
        read_examples(tmp_path / "gone.json", "qa")
    path = write(tmp_path / "x.json.gz", squad(*(question(f"q{i}", HOLT) for i in range(99))))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="truncated or damaged"):
        read_examples(path, "qa")
    (tmp_path / "x.jsonl").write_bytes('{"text": "é", "label": "a"}'.encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_examples(tmp_path / "x.jsonl", "classification")


def test_rows_that_do_not_tell_their_task(tmp_path):
    with pytest.raises(DataError, match="add --task"):
        guess_task(write(tmp_path / "x.csv", "a,b\n1,2\n"))
    with pytest.raises(DataError, match="holds no rows"):
        guess_task(write(tmp_path / "x.csv", "text,label\n"))
    with pytest.raises(DataError, match="has no text"):
        read_documents(write(tmp_path / "y.jsonl", [{"a": 1}]))


def test_parquet_with_class_names(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "x.parquet")
    loaded = read_examples(tmp_path / "x.parquet", "classification")
    assert [(each.text, each.label) for each in loaded.examples] == [("a", "pos"), ("b", "neg")]
    assert loaded.skipped == {"rows without a label": 1}
    assert read_documents(tmp_path / "x.parquet") == ["a", "b", "c"]


def test_a_damaged_parquet_file(tmp_path):
    pytest.importorskip("datasets")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"The parquet file .*x\.parquet is damaged"):
        read_examples(tmp_path / "x.parquet", "classification")


def test_parquet_without_the_extra_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1....")
    with pytest.raises(ValueError, match=r"pip install 'nmg\[data\]'"):
        read_examples(tmp_path / "x.parquet", "classification")


def test_heavy_packages_are_not_imported_for_plain_files():
    code = "import sys, envs.text.readers, nmg.data_command; print('datasets' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr
