"""Names in figures: whatever the letters, nothing is drawn as an empty box without a word."""

import matplotlib as mpl
import pytest

from atomlib.distill import distill
from atomlib.methods import RandomImages
from atomlib.report import figures, glyphs, pictures


def drawn(make_data, tmp_path, name, class_names):
    data = make_data()
    object.__setattr__(data, "class_names", class_names)
    object.__setattr__(data, "name", name)
    made = distill(data, RandomImages(ipc=2), progress=False)
    figure = pictures.distilled_grid(made)
    path = figures.write_figure(figure, tmp_path, "grid")  # a warning is an error
    assert path.stat().st_size > 0
    (axis,) = figure.axes
    return axis.get_title(), [label.get_text() for label in axis.get_yticklabels()]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["猫", "a猫b", "ไทย", "हिन्दी", "\U0001fae8", "\u200b\U000e0041"])
def test_letters_without_a_glyph_are_replaced_and_that_is_said(
    make_data, tmp_path, capsys, monkeypatch, name
):
    monkeypatch.setitem(mpl.rcParams, "font.family", ["DejaVu Sans"])  # whatever else is there
    glyphs._tell.cache_clear()
    title, rows = drawn(make_data, tmp_path, f"my{name}", (name, "b", "$ü"))
    assert rows == ["class 0", "b", r"\$ü"]
    assert "U+" in title and "my" in title
    err = capsys.readouterr().err
    assert "no font of this machine draws" in err and "'class 0' stands for it" in err


def test_what_can_be_drawn_stays_as_it_is(make_data, tmp_path, capsys):
    names = ("éßø", "Привет", "λ→∞")
    title, rows = drawn(make_data, tmp_path, "Ünï", names)
    assert "Ünï" in title and rows == [*names]
    assert "no font" not in capsys.readouterr().err


def test_a_font_that_is_installed_is_fallen_back_to(monkeypatch):
    """Of two fonts the first has no such letter."""
    sign = "\u211b"  # in a font for mathematics that matplotlib brings
    first, second = "cmr10", "STIXGeneral"
    monkeypatch.setitem(mpl.rcParams, "font.family", [first])
    assert glyphs.plain_text(sign) == "U+211B"
    monkeypatch.setattr(glyphs, "WIDE", ("No Such Font", second))
    assert glyphs.fallback_fonts() == [second]
    monkeypatch.setitem(mpl.rcParams, "font.family", [first, *glyphs.fallback_fonts()])
    assert glyphs.plain_text(sign) == sign


def test_the_style_has_the_fonts_of_this_machine(monkeypatch):
    monkeypatch.setattr(glyphs, "WIDE", ("STIXGeneral",))
    with mpl.rc_context():
        figures.style()
        assert mpl.rcParams["font.family"] == ["sans-serif", "STIXGeneral"]
