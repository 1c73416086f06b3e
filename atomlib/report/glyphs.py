"""Names that others gave, in figures: drawn by the fonts at hand, or replaced, and that is said."""

import re
import sys
from functools import cache

import matplotlib as mpl
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

WIDE = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP"),
    *("Noto Sans KR", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "SimHei"),
    *("Droid Sans Fallback", "IPAexGothic", "TakaoGothic", "NanumGothic", "Microsoft YaHei"),
    *("Yu Gothic", "MS Gothic", "Malgun Gothic", "PingFang SC", "Hiragino Sans", "Noto Sans"),
    *("Apple SD Gothic Neo", "Arial Unicode MS", "Noto Sans Devanagari", "Noto Sans Thai"),
    *("Noto Emoji", "Symbola", "Segoe UI Symbol"),
)
"""Fonts of many letters, as systems bring them; none of those in colour, which are not drawn."""


def fallback_fonts() -> list[str]:
    """Those of them that this machine has, for letters that the first font has not."""
    installed = set(fontManager.get_font_names())
    return [name for name in WIDE if name in installed]


def plain_text(text: str, instead: str = "") -> str:
    """A name to be drawn: its dollars are no mathematics, and each letter has a glyph.

    Where no font has one, ``instead`` stands for the name, or else the letter's code point
    for the letter; this is written to stderr, once per name.
    """
    if not text.isascii():
        families = tuple(mpl.rcParams["font.family"])
        absent = "".join(dict.fromkeys(sign for sign in text if not _has_glyph(sign, families)))
        if absent:
            runs = re.split(f"([{re.escape(absent)}]+)", text)
            runs[1::2] = (" ".join(f"U+{ord(sign):04X}" for sign in run) for run in runs[1::2])
            replaced = instead or "".join(runs)
            _tell(text, absent, replaced)
            text = replaced
    return text.replace("$", r"\$")


@cache
def _has_glyph(sign: str, families: tuple[str, ...]) -> bool:
    files = (findfont(FontProperties(family=[family])) for family in families)
    return any(get_font(file).get_char_index(ord(sign)) for file in files)


@cache
def _tell(text: str, absent: str, replaced: str) -> None:
    print(
        f"figures: no font of this machine draws {absent!r} of {text!r}; {replaced!r} stands for "
        f"it (fonts that do are {', '.join(WIDE[:2])} and others)",
        file=sys.stderr,
    )
