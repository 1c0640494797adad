"""The settings of the testbed, from easy to hard."""

from __future__ import annotations

from dataclasses import dataclass, replace

from envs.adaptation.jobs import AdaptationSettings


@dataclass(frozen=True)
class LanguageSettings:
    """The vocabulary, and how the tiny language model learned it."""

    topics: int = 4
    known: int = 80
    """Keywords whose topic the language model knows."""
    new: int = 160
    """Keywords whose topic every deal draws afresh; half of them are kept for the test family."""
    filler: int = 400
    """Words of no topic, with Zipf frequencies; 0 makes the setting a matched one."""
    zipf_shift: int = 10
    """Filler of rank r is as frequent as 1 / (r + shift), after Mandelbrot: without a shift three
    words would be a third of all filler."""
    twins: int = 0
    """Distractors for every keyword: words of no topic, as frequent as the keyword."""
    layers: int = 1
    width: int = 64
    heads: int = 2
    steps: int = 1200
    batch: int = 64
    lr: float = 3e-3
    era: int = 100
    """Training steps after which the new keywords' topics are drawn again: what the model learns
    is that they have a topic worth learning."""
    era_words: int = 32
    """New keywords in use during an era."""
    plain: float = 0.25
    """Share of the training documents without a keyword."""


_ADAPTATION = AdaptationSettings(
    pretrain_epochs=8,
    pretrain_batch=64,
    pretrain_lr=1e-2,
    corruption="mask",
    finetune_epochs=3,
    finetune_batch=40,
    finetune_lr=6e-3,
    finetune_seeds=4,
)
"""Few, large steps: the time of a score is the number of steps."""


@dataclass(frozen=True)
class TestbedSettings:
    """What an episode is made of."""

    __test__ = False  # for pytest: it is no test

    language: LanguageSettings = LanguageSettings()
    contexts: int = 64
    words: int = 24
    """Words of a document."""
    known_in_document: int = 5
    new_in_document: int = 3
    new_in_deal: int = 48
    """New keywords of a deal, equally many for each topic."""
    labelled_new: int = 1
    """New keywords of each topic that the labelled documents use; the score documents use the
    others."""
    labelled: int = 40
    scored: int = 128
    task_words: int = 8
    """Words of a labelled or score document."""
    task_keywords: int = 4
    known_share: float = 0.8
    """Share of known keywords among those of the labelled documents; score documents have none."""
    budget: float = 0.08
    """Share of the tokens of a context that may be masked: 2 of 26."""
    adaptation: AdaptationSettings = _ADAPTATION

    @property
    def informative_share(self) -> float:
        """Share of informative tokens among the maskable ones: what chance reaches."""
        return (self.known_in_document + self.new_in_document) / self.words


_MATCHED = LanguageSettings(filler=0, twins=2)

SETTINGS = {
    "easy": TestbedSettings(
        contexts=96, task_keywords=6, adaptation=replace(_ADAPTATION, pretrain_batch=96)
    ),
    "standard": TestbedSettings(),
    "sparse": TestbedSettings(
        contexts=96,
        known_in_document=3,
        new_in_document=2,
        adaptation=replace(_ADAPTATION, pretrain_batch=96),
    ),
    "matched": TestbedSettings(language=_MATCHED),
}
SETTINGS["hard"] = SETTINGS["matched"]
SETTINGS["small"] = TestbedSettings(
    language=LanguageSettings(
        known=24, new=48, filler=60, width=48, steps=350, era=50, era_words=16
    ),
    contexts=48,
    new_in_deal=16,
    scored=64,
)


def settings_named(name: str) -> TestbedSettings:
    """The setting of that name.

    Raises:
        ValueError: if there is none.
    """
    if name not in SETTINGS:
        raise ValueError(
            f"There is no testbed setting {name!r}; give one of {', '.join(SETTINGS)}, or say the "
            "--task of a data set of text (qa, classification, generation)."
        )
    return SETTINGS[name]
