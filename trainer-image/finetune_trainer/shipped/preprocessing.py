"""Cleans texts. A copy of this file lies in every model folder whose texts were cleaned before training:

    from preprocessing import cleaner
    clean = cleaner(unicode="NFKC", lowercase=True)  # as the model card has it

Of HTML markup everything stays that is not markup, in linear time. What looks like a tag is one only if HTML has an
element of that name and it closes: `List<String>`, `<user@example.org>`, `a <b and c> d` and
`How do I use <script> in HTML?` stay as they are. It needs Python alone.
"""

import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any

_BLOCKS = """
address article aside blockquote br center dd details dialog div dl dt fieldset figcaption figure footer form h1 h2 h3
h4 h5 h6 header hr li main nav ol p pre section summary table td th tr ul
"""
BLOCKS = frozenset(_BLOCKS.split())
"""Elements whose text stands apart from the text around them."""
HIDDEN = frozenset({"script", "style", "template"})
"""Elements whose content nobody reads."""
_END_OPTIONAL = """
br hr wbr p li dt dd tr td th thead tbody tfoot colgroup option optgroup rt rp html head body
"""
END_OPTIONAL = frozenset(_END_OPTIONAL.split())
"""Elements that are complete without an end tag. Others are text unless they close or have an attribute."""
_INLINE = """
a abbr acronym applet area audio b base basefont bdi bdo big button canvas caption cite code col data datalist del dfn
dir em embed font frame frameset hgroup i iframe img input ins kbd label legend link map mark marquee math menu meta
meter nobr noframes noscript object output param path picture progress q ruby s samp search select slot small source
span strike strong sub sup svg textarea time title track tt u var video
"""
ELEMENTS = BLOCKS | HIDDEN | END_OPTIONAL | frozenset(_INLINE.split())

_ATTRIBUTES = r"""(?:[^<>"']|"[^"]*"|'[^']*')*"""
_CANDIDATE = re.compile(
    rf"<(?P<special>!--|\?xml\b|\?php\b)|<!doctype[^<>]*>|<(?P<end>/?)(?P<name>[a-z][a-z0-9]*)(?P<rest>(?=[\s/>]){_ATTRIBUTES})>",
    re.IGNORECASE,
)
_END = re.compile(r"</([a-z][a-z0-9]*)\s*>", re.IGNORECASE)
_VALUE = re.compile(r"\s[\w:@.-]+\s*=")
_CLOSED_BY = {"!--": "-->", "?xml": "?>", "?php": "?>"}


def cleaner(
    unicode: Any = None,
    *,
    markup: bool = False,
    whitespace: bool = False,
    lowercase: bool = False,
    joined: bool = False,
) -> Callable[[str], str]:
    """The function that cleans a text: Unicode form, markup removed, white space collapsed, lower case.

    Of texts that are `joined` without anything between them the space at the ends matters.
    """
    steps: list[Callable[[str], str]] = []
    if unicode is not None:
        steps.append(lambda text: unicodedata.normalize(unicode, text))
    if markup:
        steps.append(strip_markup)
    if whitespace:
        steps.append(collapse_runs if joined else collapse_whitespace)
    if lowercase:
        steps.append(str.lower)

    def clean(text: str) -> str:
        for step in steps:
            text = step(text)
        return text

    return clean


def collapse_whitespace(text: str) -> str:
    """Runs of white space become one space; none stays at the ends."""
    return " ".join(text.split())


def collapse_runs(text: str) -> str:
    """Runs of white space become one space, those at the ends too; of white space alone nothing stays."""
    return re.sub(r"\s+", " ", text) if text.strip() else ""


def strip_markup(text: str) -> str:
    """The text of an HTML fragment: tags removed, entities decoded, blocks apart, scripts and styles dropped."""
    if not re.search(r"[<&]", text):
        return text
    parts: list[str] = []
    done = 0
    for start, end, separates in _markup(text):
        if done < start:
            parts.append(html.unescape(text[done:start]))
        if separates and parts and not parts[-1].endswith(("\n", " ")):
            parts.append("\n")
        done = end
    parts.append(html.unescape(text[done:]))
    return "".join(parts)


def _markup(text: str) -> Iterator[tuple[int, int, bool]]:
    """Start and end of every piece of markup, and whether it separates what stands before and after it."""
    last_end = {found[1].lower(): found.start() for found in _END.finditer(text)}
    position = 0
    while found := _CANDIDATE.search(text, position):
        end = _end_of(found, text, last_end)
        if end is None:
            position = found.start() + 1
            continue
        yield found.start(), end, (found["name"] or "").lower() in BLOCKS
        position = end


def _end_of(found: re.Match[str], text: str, last_end: dict[str, int]) -> int | None:
    """Where the markup that begins at a match ends; None if it is text."""
    if special := found["special"]:
        closing = _CLOSED_BY[special.lower()]
        if closing not in last_end:
            last_end[closing] = text.rfind(closing)
        if last_end[closing] < found.end():
            return None
        return text.index(closing, found.end()) + len(closing)
    if found["name"] is None:
        return found.end()
    name = found["name"].lower()
    closes = last_end.get(name, -1) >= found.end()
    if name not in ELEMENTS or (name in HIDDEN and not found["end"] and not closes):
        return None
    if name in HIDDEN and not found["end"]:
        return _after_end_tag(name, text, found.end())
    is_tag = found["end"] or closes or name in END_OPTIONAL or _VALUE.search(found["rest"])
    return found.end() if is_tag else None


def _after_end_tag(name: str, text: str, start: int) -> int:
    end = re.compile(rf"</{name}\s*>", re.IGNORECASE).search(text, start)
    assert end is not None
    return end.end()
