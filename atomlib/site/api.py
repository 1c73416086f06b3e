"""The API reference: what the modules' own words say of their public names, read by pdoc.

Shown is what has a docstring, in the site's templates: api.html for a module, api_index.html.
"""

import importlib
import sys
from collections.abc import Iterator
from inspect import Signature
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any, get_type_hints

from markupsafe import Markup
from pdoc.doc import Class, Doc, Module, Variable
from pdoc.doc_ast import walk_tree
from pdoc.doc_types import empty
from pdoc.render_helpers import format_signature, linkify
from pydantic.fields import FieldInfo

from atomlib.settings import Settings
from atomlib.site.notebook_page import markdown

PACKAGE = Path(__file__).parents[1]

MODULES = (
    "datasets", "methods", "distill", "distilled_set", "evaluate", "training", "full_data",
    "attention", "augmentation", "preprocess", "models", "nas", "published", "recipes",
    "methods.feature_matching", "settings", "randomness", "errors",
)  # fmt: skip
"""In the order in which a reader meets them; what belongs to notebooks and files is not here."""


def modules() -> dict[str, Module]:
    """By full name, as pdoc reads them."""
    names = [f"atomlib.{name}" for name in MODULES]
    return {name: Module(importlib.import_module(name)) for name in names}


def page_of(module: str) -> str:
    """Where the page of a module is on the site: pdoc's links between them lead there."""
    return f"api/{module.replace('.', '/')}.html"


def pages() -> dict[str, dict[str, Any]]:
    """What api.html is given for each module, by the module's name."""
    every = modules()
    listed = {name: list(members(module)) for name, module in every.items()}
    shown = {
        each.fullname for rows in listed.values() for doc, own, _ in rows for each in (doc, *own)
    }
    common = {
        "all_modules": every,
        "is_public": lambda doc: "yes" if doc.fullname in shown else "",
        "annotation": annotation,
        "constructor": constructor,
        "settings": settings,
        "prose": prose,
    }
    return {
        name: {"module": module, "members": listed[name], **common}
        for name, module in every.items()
    }


def source_of(doc: Doc) -> str:
    """The file that a name is taken from: "methods/atom", in atomlib/."""
    module = sys.modules[_home(doc)]
    path = Path(module.__file__ or "").relative_to(PACKAGE)
    return path.with_suffix("").as_posix()


def _home(doc: Doc) -> str:
    """Its module; of an alias of types, pdoc would name Python's own."""
    home = doc.taken_from[0]
    return home if home.startswith("atomlib") else doc.modulename


def _is_public(doc: Doc) -> bool:
    """Whether the reference shows it: it has a name for others, and words of its own."""
    return not doc.name.startswith("_") and bool(doc.docstring) and doc.kind != "module"


def members(module: Module) -> Iterator[tuple[Doc, list[Doc], str]]:
    """Each public name, what it has itself, and the words of the file that it is taken from.

    A file's words come once, with the first of its names.
    """
    told = {module.modulename}
    for doc in filter(_is_public, module.own_members):
        home = _home(doc)
        text = "" if home in told else sys.modules[home].__doc__ or ""
        told.add(home)
        yield doc, _own(doc) if isinstance(doc, Class) else [], text


def _own(doc: Class) -> list[Doc]:
    """What a class says something of, its settings apart: not what repeats a base's words."""
    said = walk_tree(doc.obj).var_docstrings
    fields = getattr(doc.obj, "model_fields", {})
    return [
        m
        for m in doc.own_members
        if _is_public(m)
        and m.name not in fields
        and (m.name in said or _has_words(vars(doc.obj).get(m.name)))
    ]


def _has_words(value: Any) -> bool:
    kinds = FunctionType, classmethod, staticmethod, property
    return isinstance(value, kinds) and bool(value.__doc__)


def constructor(doc: Doc) -> Signature | None:
    """What a class is called with, where this is of its own and not its settings."""
    own = doc.own_members if isinstance(doc, Class) and not settings(doc) else []
    return next((m.signature_without_self for m in own if m.name == "__init__"), None)


def settings(doc: Doc) -> list[tuple[str, list[tuple[str, str, str]]]]:
    """Of a class of settings and each of its bases: its name; name, default, meaning of each."""
    found = []
    for base in doc.obj.__mro__ if isinstance(doc, Class) else ():
        if issubclass(base, Settings) and base is not Settings:
            names = [name for name in base.__annotations__ if name in doc.obj.model_fields]
            new = [n for n in names if n not in {row[0] for _, rows in found for row in rows}]
            found.append(
                (base.__name__, [_setting(name, doc.obj.model_fields[name]) for name in new])
            )
    return [(name, rows) for name, rows in found if rows]


def _setting(name: str, field: FieldInfo) -> tuple[str, str, str]:
    value, meaning = field.get_default(call_default_factory=True), field.description or ""
    if isinstance(value, Settings):
        return name, f"{type(value).__name__}()", meaning or (value.__doc__ or "").split("\n")[0]
    return name, "" if field.is_required() else repr(value), meaning


def annotation(doc: Variable) -> str:
    """The type of a variable, with the mark that pdoc puts before it."""
    if doc.annotation is not empty:
        doc.annotation = _bare(doc.annotation)
    return doc.annotation_str.replace("jaxtyping.", "").replace("ClassVar", "").strip()


def signature(given: Signature) -> Markup:
    """The arguments of a call, each in a span; array types without their module's name."""
    kinds = [p.replace(annotation=_bare(p.annotation)) for p in given.parameters.values()]
    made = format_signature(given.replace(parameters=kinds), colon=False)
    return made.replace(Markup('<span class="n">jaxtyping</span><span class="o">.</span>'), "")


def _bare(kind: Any) -> Any:
    """A type without what checks its values, which would be printed with an address."""
    if "Annotated" not in repr(kind):
        return kind
    return get_type_hints(SimpleNamespace(__annotations__={"it": kind}))["it"]


def prose(docstring: str) -> str:
    """A docstring as HTML: Markdown, as the notebooks are, with no link but pdoc's."""
    return markdown(docstring, lambda url: None)


FILTERS = {"signature": signature, "linkify": linkify}
"""Of the templates; ``linkify`` looks for ``module``, ``all_modules`` and ``is_public``."""
