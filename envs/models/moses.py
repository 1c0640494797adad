"""Moses' words, as fast tokenizers can cut them: for XLM, FSMT and their kin.

The rules are those of Moses' ``normalize-punctuation.perl`` and ``tokenizer.perl`` (Koehn et al.
2007) as sacremoses has them, each a replacement that fast tokenizers can do. English contractions,
quotes, decimals and abbreviations come out alike. The words, and so the ids, differ from those of
sacremoses in these places:

* a line break or a tab parts words (sacremoses drops it, and joins its neighbours);
* of the words that keep a final full stop, the English ones ("Mr.") and the commonest German ones
  are known; in other languages, single capitals and what has a stop inside ("z.B.");
* French and Italian elisions are cut on both sides of the apostrophe;
* runs of unlike quotes and stops (``"..``, ``.'"``), accents written apart, and rare scripts that
  sacremoses takes for signs: here, Chinese and Korean only.
"""

# ruff: noqa: RUF001 (signs that look alike are what this is about)

from __future__ import annotations

import re
from typing import Any

_SIGNS = {
    ",": "，、",
    '"': "”“《》」「„«»",
    ":": "∶：",
    "?": "？",
    ")": "）",
    "(": "（",
    "!": "！",
    ";": "；",
    "~": "～",
    "'": "’‘‚´`",
    "...": "…",
    "-": "━–",
    " - ": "—",
    "<": "〈",
    ">": "〉",
    "[": "【",
    "]": "】",
    "%": "％",
}
"""Plain punctuation, and the signs that become it."""

_SHORTENED = {
    "en": "Adj Adm Adv Asst Bart Bldg Brig Bros Capt Cmdr Col Comdr Con Corp Cpl DR Dr Drs Ens Gen "
    "Gov Hon Hosp Hr Insp Lt MM MR MRS MS Maj Messrs Mlle Mme Mr Mrs Ms Msgr Nos Nr Op Ord Pfc Ph "
    "Prof Pvt Rep Reps Res Rev Rs Rt Sen Sens Sfc Sgt Sr St Supt Surg rev v vs "
    "Jan Feb Mar Apr Jun Jul Aug Sep Oct Nov Dec",
    "de": r"[a-z] [0-9]{1,2} [IVX]{1,5} Co Dr Nr Prof St",
}
"""Words that keep their full stop, as patterns, by language."""
_BEFORE_NUMBERS = {"en": "Art No pp"}
"""Words that keep it where a number follows."""

_ESCAPES = {
    "&": "&amp;",
    "|": "&#124;",
    "<": "&lt;",
    ">": "&gt;",
    "'": "&apos;",
    '"': "&quot;",
    "[": "&#91;",
    "]": "&#93;",
}

_ALNUM = r"[\p{Alphabetic}\p{Nd}&&[^\p{Han}\p{Hangul}]]"
_ALPHA = r"[\p{Alphabetic}&&[^\p{Han}\p{Hangul}]]"


def moses_words(language: str = "en", *, hyphens: bool = False, escape: bool = False) -> list[Any]:
    """Normalizers that leave Moses' words, with white space between them.

    Args:
        language: by its code of two letters.
        hyphens: cut words at hyphens, which are then written ``@-@``.
        escape: write the signs that mean something to Moses as XML does.
    """
    from tokenizers import normalizers

    rules = [normalizers.Strip()]
    rules += [_replace(f"[{signs}]", plain) for plain, signs in _SIGNS.items()]
    rules += [_replace(wide, str(digit)) for digit, wide in enumerate("０１２３４５６７８９")]
    rules += [_replace(r"[。．]\s*", ". "), _replace("''", '"'), *_punctuation(language)]
    rules += [_replace(r"[\p{C}&&[^\s]]", ""), *_cuts(language, hyphens)]
    if escape:
        rules += [_replace(rf"\{sign}", escaped) for sign, escaped in _ESCAPES.items()]
    return rules


def _punctuation(language: str) -> list[Any]:
    """What belongs on which side of a closing quote, and in long numbers."""
    rules = []
    if language == "en":
        stops = ("...", ",", ".")
        rules += [_replace(rf'"{re.escape(stop)}(?![.,])', f'{stop}"') for stop in stops]
    elif language in ("de", "es", "fr"):
        rules += [_replace(',"', '",'), _replace(r'(?<!\.)\."(?=\s*[^<\s])', '".')]
    comma = language in ("de", "es", "cz", "cs", "fr")
    return [*rules, _replace(r"(?<=\d)\u00A0(?=\d)", "," if comma else ".")]


def _cuts(language: str, hyphens: bool) -> list[Any]:
    """A space wherever two words meet; of the text nothing is changed.

    Nothing is put in front of the first character: of what is there, the tokenizers library loses
    the place in the text.
    """
    sign = rf"[^\s.'`,\-{_ALNUM}]"
    rules = [_replace(rf"(?!\A)(?={sign})|(?<={sign})(?!\z)", " ")]
    if hyphens:
        rules += [_replace(rf"(?<={_ALNUM})-(?={_ALNUM})", " @-@ ")]
    rules += [
        _replace(r"(?<=[^.])(?=\.\.)|(?<=\.\.)(?=[^.])", " "),
        _replace(r"(?<=[^\p{N}]),|,(?=[^\p{N}])|,\z", " , "),
    ]
    if language == "en":
        apart = rf"(?<=[^{_ALPHA}])'(?=[^{_ALPHA}])|(?<=[^{_ALPHA}\p{{N}}])'(?={_ALPHA})"
        rules += [
            _replace(rf"{apart}|(?<={_ALPHA})'(?=[^{_ALPHA}])", " ' "),
            _replace(rf"(?<={_ALPHA})(?='{_ALPHA})|(?<=\p{{N}})(?='s)", " "),
        ]
    else:
        rules += [_replace("'", " ' ")]
    return [*rules, _final_stops(language), _replace(r"\.' ?\z", " . ' ")]


def _final_stops(language: str) -> Any:
    """A word's final full stop is a word, unless it has others, shortens it, or none ends there."""
    shortened = "|".join([*_SHORTENED.get(language, "").split(), "[A-Z]"])
    kept = (
        rf"(?=\S*{_ALPHA})\S*\.\S*\.(?!\S)|(?:{shortened})\.(?!\S)"
        r"|\S+\.\s+\p{Lowercase}|\.+(?!\S)"
    )
    if language in _BEFORE_NUMBERS:
        kept += rf"|(?:{'|'.join(_BEFORE_NUMBERS[language].split())})\.\s+[0-9]"
    return _replace(rf"(?<!\S)(?!{kept})\S+\K(?=\.(?!\S))", " ")


def moses_text() -> Any:
    """The decoder of pieces whose last ends with </w>: text, with the usual spaces at signs."""
    from tokenizers import Regex, decoders

    rules = [decoders.BPEDecoder(suffix="</w>"), decoders.Fuse()]
    rules += [decoders.Replace(escaped, sign) for sign, escaped in reversed(_ESCAPES.items())]
    spaces = [r" (?=[.,!?;:%)\]}]+(?:\s|$))", r"(?<=[(\[{$£]) ", r" (?='\p{L}+)"]
    rules += [decoders.Replace(" @-@ ", "-")]
    rules += [decoders.Replace(Regex(pattern), "") for pattern in spaces]
    return decoders.Sequence(rules)


def _replace(pattern: str, content: str) -> Any:
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(pattern), content)
