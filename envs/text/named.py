"""The named data sets: what they are, where they come from, which files are looked for.

Pure data: adding a set is adding an entry. ``datasets.py`` reads the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envs.text.readers import TaskName


@dataclass(frozen=True)
class NamedDataset:
    """One entry of the table.

    File names are given without ``.gz``; the packed file is looked for too. Of several names for
    one part, the first that is there is read.
    """

    name: str
    task: TaskName
    about: str
    origin: str
    licence: str
    folders: tuple[str, ...]
    """Folders under the data folder; the first is the one that messages name."""
    files: Mapping[str, tuple[str, ...]]
    """File names by part: ``train``, ``dev`` (may be absent), ``test``, or ``whole`` for a single
    published set, which is split when it is loaded."""
    columns: tuple[str, str] | None = None
    own_names: bool = False
    """The file names are unmistakable, so they may also lie directly in the data folder."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Warnings, by the name of the file they hold for."""


def _rows(part: str, *more: str) -> tuple[str, ...]:
    return tuple(f"{part}.{ending}" for ending in ("jsonl", "txt", "csv", "tsv", "parquet")) + more


def _parts(*parts: str) -> dict[str, tuple[str, ...]]:
    return {part: _rows(part) for part in parts}


_DSP = "github.com/allenai/dont-stop-pretraining (environments/datasets.py lists the addresses)"

_TABLE = (
    NamedDataset(
        name="squad",
        task="qa",
        about="questions on Wikipedia, SQuAD v1.1; its public dev set is the test set here",
        origin="rajpurkar.github.io/SQuAD-explorer",
        licence="CC BY-SA 4.0",
        folders=("squad_v1.1", "squad"),
        files={
            "train": ("train-v1.1.json", "train_first11-v1.1.json"),
            "test": ("dev-v1.1.json",),
        },
        own_names=True,
        notes={
            "train_first11-v1.1.json": "train-v1.1.json is not there: squad is trained on the "
            "first 11 articles only (3,807 of 87,599 questions)."
        },
    ),
    NamedDataset(
        name="newsqa",
        task="qa",
        about="questions on CNN articles, in the form of the MRQA 2019 shared task",
        origin="github.com/mrqa/MRQA-Shared-Task-2019 (NewsQA.jsonl.gz of train and of dev)",
        licence="as stated at github.com/Maluuba/newsqa; the articles remain CNN's",
        folders=("newsqa",),
        files={
            "train": ("train.jsonl", "NewsQA-train.jsonl", "train/NewsQA.jsonl"),
            "test": ("dev.jsonl", "NewsQA-dev.jsonl", "dev/NewsQA.jsonl"),
        },
    ),
    NamedDataset(
        name="emrqa",
        task="qa",
        about="questions on clinical notes; a local file in MRQA or SQuAD form",
        origin="github.com/panushri25/emrQA, made from the n2c2 (i2b2) notes",
        licence="n2c2 data use agreement: may not be passed on",
        folders=("emrqa",),
        files={"whole": ("emrqa.jsonl", "emrqa.json", "emrQA.jsonl", "emrQA.json")},
        own_names=True,
    ),
    NamedDataset(
        name="squadshifts-new_wiki",
        task="qa",
        about="a new test set in SQuAD's form, Wikipedia; one set, split here by article",
        origin="github.com/modestyachts/squadshifts-website, datasets/new_wiki_v1.0.json",
        licence="CC BY 4.0 (on its hub card; not stated in the repository)",
        folders=("squadshifts",),
        files={"whole": ("new_wiki_v1.0.json",)},
        own_names=True,
    ),
    NamedDataset(
        name="squadshifts-amazon",
        task="qa",
        about="a new test set in SQuAD's form, product reviews; one set, split here by article",
        origin="github.com/modestyachts/squadshifts-website, datasets/amazon_reviews_v1.0.json",
        licence="CC BY 4.0 (on its hub card; not stated in the repository)",
        folders=("squadshifts",),
        files={"whole": ("amazon_reviews_v1.0.json",)},
        own_names=True,
    ),
    NamedDataset(
        name="xquad",
        task="qa",
        about="240 paragraphs of SQuAD's dev set, English part; one set, split here by article",
        origin="github.com/deepmind/xquad, xquad.en.json",
        licence="CC BY-SA 4.0",
        folders=("xquad_en", "xquad"),
        files={"whole": ("xquad.en.json",)},
        own_names=True,
        notes={
            "xquad.en.json": "every question of xquad is also in SQuAD's dev set: "
            "do not use one to train and the other to test."
        },
    ),
    NamedDataset(
        name="chemprot",
        task="classification",
        about="relations between chemicals and proteins, 13 classes",
        origin="github.com/allenai/scibert, data/text_classification/chemprot",
        licence="Apache-2.0 (the repository; not stated for the data)",
        folders=("chemprot",),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="scicite",
        task="classification",
        about="intents of citations, 3 classes",
        origin="github.com/allenai/scibert, data/text_classification/sci-cite",
        licence="Apache-2.0",
        folders=("scicite",),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="csabstruct",
        task="classification",
        about="roles of sentences in computer-science abstracts, 5 classes",
        origin="github.com/allenai/sequential_sentence_classification, data/CSAbstruct",
        licence="Apache-2.0",
        folders=("csabstruct",),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="imdb",
        task="classification",
        about="film reviews, 2 classes",
        origin=f"ai.stanford.edu/~amaas/data/sentiment; as rows of text and label: {_DSP}",
        licence="not stated; published for research",
        folders=("imdb",),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="acl-arc",
        task="classification",
        about="intents of citations in computational linguistics, 6 classes",
        origin=f"{_DSP}, set citation_intent",
        licence="not stated; published for research",
        folders=("acl-arc", "citation_intent"),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="rct",
        task="classification",
        about="roles of sentences in abstracts of clinical trials, 5 classes",
        origin="github.com/Franck-Dernoncourt/pubmed-rct, PubMed_20k_RCT",
        licence="not stated; abstracts from PubMed, some under copyright",
        folders=("rct", "PubMed_20k_RCT"),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="agnews",
        task="classification",
        about="topics of news, 4 classes",
        origin=f"{_DSP}, set ag; or the hub's hub:fancyzhx/ag_news",
        licence="not stated; published for research, not for commercial use",
        folders=("agnews", "ag"),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="hyperpartisan",
        task="classification",
        about="whether a news article is extremely one-sided, 2 classes",
        origin=f"{_DSP}, set hyperpartisan_news; the original is task 4 of SemEval 2019",
        licence="CC BY 4.0",
        folders=("hyperpartisan", "hyperpartisan_news"),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="multi30k",
        task="generation",
        about="captions of pictures, English to German",
        origin="github.com/multi30k/dataset, data/task1/raw",
        licence="not stated; published for research",
        folders=("multi30k",),
        files={"train": ("train.en",), "dev": ("val.en",), "test": ("test_2016_flickr.en",)},
        columns=("en", "de"),
    ),
    NamedDataset(
        name="scitldr",
        task="generation",
        about="one-sentence summaries of abstracts of papers",
        origin="github.com/allenai/scitldr, SciTLDR-Data/SciTLDR-A",
        licence="Apache-2.0",
        folders=("scitldr_a", "scitldr", "SciTLDR-A"),
        files=_parts("train", "dev", "test"),
    ),
    NamedDataset(
        name="dailydialog",
        task="generation",
        about="everyday dialogues: answer the turns so far",
        origin="yanran.li/dailydialog",
        licence="CC BY-NC-SA 4.0",
        folders=("dailydialog",),
        files={
            "train": ("dialogues_train.txt",),
            "dev": ("dialogues_validation.txt",),
            "test": ("dialogues_test.txt",),
        },
        own_names=True,
    ),
)

DATASETS: Mapping[str, NamedDataset] = {entry.name: entry for entry in _TABLE}
