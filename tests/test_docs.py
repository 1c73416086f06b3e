"""The documents: each reference in the code names a heading that is there, each link resolves."""

import re

import pytest

from tests.test_environment import ROOT

DOCS = sorted((ROOT / "docs").glob("*.md"))
CODE = sorted(
    path
    for folder in ("atomlib", "tests", "notebooks")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".ipynb", ".html") and path.name != "test_docs.py"
)
REFERENCE = re.compile(r"docs/(\w+)\.md(?:, [\"']([^\"']+)[\"'])?")
"""docs/facts.md, 'NAS protocol'; or the document as a whole."""


def headings(name: str) -> set[str]:
    text = (ROOT / "docs" / f"{name}.md").read_text()
    return {heading.strip() for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def joined(text: str) -> str:
    """A text without the line breaks, and the signs of comments, that may part a reference."""
    return re.sub(r"\s*\n\s*(#\s*)?", " ", text)


def test_each_reference_in_the_code_names_a_document_and_a_heading_of_it():
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in CODE
        for found in REFERENCE.finditer(joined(path.read_text()))
        if not (ROOT / "docs" / f"{found[1]}.md").exists()
        or (found[2] and found[2] not in headings(found[1]))
    ]
    assert not wrong


def test_no_document_is_cited_without_its_path():
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in CODE
        for found in re.finditer(r"\bDESIGN\b|\bfacts, [\"']|\(facts: [A-Z]", path.read_text())
    ]
    assert not wrong


def test_the_fields_words_are_used():
    """Per class, not "a class"; only, not "alone"; lock, seed, cache: what a reader greps for."""
    private = (
        r"\b(images|rows|seconds|strategy|one|row|line|sentence|draw|map) an? "
        r"(class|batch|iteration|step|network|cell|group|method|variant|processor)\b"
        r"|where chance comes from|as good as absent"
    )
    code = [path for path in CODE if path.parts[-2] != "tests"]
    pages = [ROOT / "README.md", ROOT / "notebooks" / "README.md", *DOCS]
    wrong = [
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in [*code, *pages]
        for found in re.finditer(private, joined(path.read_text()), re.IGNORECASE)
    ]
    assert not wrong


def test_a_reference_is_found_across_lines_and_a_wrong_one_seen():
    (found,) = REFERENCE.findall(joined("# as in docs/facts.md, 'NAS\n    # protocol'"))
    assert found == ("facts", "NAS protocol")
    assert found[1] in headings(found[0])
    assert "NAS protocols" not in headings("facts")


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_links_between_the_documents_resolve(page):
    text = joined(page.read_text())
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert not [link for link in links if not (page.parent / link).exists()]
    cited = re.findall(r"\]\((\w+)\.md\), ((?:\"[^\"]+\"(?: and )?)+)", text)
    for name, quoted in cited:
        assert set(re.findall('"([^"]+)"', quoted)) <= headings(name)


def test_the_files_that_the_design_names_are_there():
    text = (ROOT / "docs" / "design.md").read_text()
    tree = text[text.index("    atomlib/\n") : text.index("To read the method")]
    inside = [line for line in tree.splitlines() if line.startswith(" " * 6)]
    named = [name for line in inside for name in re.findall(r"\b\w+(?:\.py|/)", line[:54])]
    assert len(named) > 15
    assert not [name for name in named if not (ROOT / "atomlib" / name).exists()]
    rooms = {
        f"{path.name}/" for path in (ROOT / "atomlib").iterdir() if (path / "__init__.py").exists()
    }
    assert rooms <= set(named)
    rebuilt = set(re.findall(r"^\| `(\d\d_\w+)` \|", text, re.MULTILINE))
    assert rebuilt == {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
