"""A Wikipedia dump to articles: `<lang>wiki-<date>-pages-articles[-multistream].xml.bz2` to plain paragraphs.

One process decompresses and parses the XML, the workers clean wikitext with mwparserfromhell, and this process writes
what they return in the order of the dump. As for the original BERT, only prose is kept: "we extract only the text
passages and ignore lists, tables, and headers" (Devlin et al. 2019, https://arxiv.org/abs/1810.04805, section 3.1).
"""

from __future__ import annotations

import bz2
import contextlib
import gzip
import html
import re
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple
from xml.parsers import expat

import mwparserfromhell
from mwparserfromhell import nodes

from pruneonce.data import articles
from pruneonce.data.building import Built
from pruneonce.data.executor import ordered_map
from pruneonce.errors import PruneonceError, UsageError
from pruneonce.progress import Advance, no_progress

CLEANER = 1  # raise it whenever `clean` gives another text, so that folders made before are not taken for new ones
BLOCK_BYTES = 1 << 20  # of XML handed to the parser at a time
BATCH_CHARS = 1 << 19  # of wikitext per task: a quarter of a second of work, so sending it costs nothing
FRAGMENT_WORDS = 10  # shorter paragraphs that do not end like a sentence are stubs: "(UK)", "may refer to:"
_SUFFIXES = (".xml", ".bz2", ".gz")


class Page(NamedTuple):
    """One page of the dump's main namespace that is not a redirect."""

    title: str
    wikitext: str


def extract(
    dump: str | Path,
    out: str | Path,
    *,
    workers: int | None = 1,
    on: str = "",
    shard_bytes: int = articles.SHARD_BYTES,
    on_progress: Advance | None = None,
) -> Built:
    """Turn a MediaWiki XML dump (.xml, .xml.bz2, .xml.gz) into the articles folder `out`.

    Redirects, pages outside the main namespace, pages without prose and pages that mwparserfromhell cannot parse are
    left out and counted in the manifest's `skipped`. workers: processes, None: one per core; on: "ray" or
    "ray://HOST:PORT", and workers then its tasks at once, None for all that fit. The result depends on neither.
    Progress is in bytes of the dump file. A dump that ends early or is damaged is a PruneonceError, and leaves no
    manifest.
    """
    dump = Path(dump)
    if dump.suffix not in _SUFFIXES:
        raise UsageError(f"{dump} is not a dump: expected a name that ends in .xml, .xml.bz2 or .xml.gz")
    source = {"kind": "wikipedia", "cleaner": CLEANER, "files": articles.describe_inputs([dump])}
    skipped: Counter[str] = Counter()
    return articles.make(
        out,
        lambda: _articles(dump, workers, on, skipped, on_progress or no_progress),
        source=source,
        skipped=skipped,
        shard_bytes=shard_bytes,
    )


def _articles(
    dump: Path, workers: int | None, on: str, skipped: Counter[str], on_progress: Advance
) -> Generator[tuple[str, str], None, None]:
    batches = _batches(read_pages(dump, skipped, on_progress))
    for cleaned in ordered_map(_clean_batch, batches, workers=workers, on=on):
        for title, text in cleaned:
            if text:
                yield title, text
            else:
                skipped["unparsable" if text is None else "without prose"] += 1


def _batches(pages: Iterator[Page]) -> Iterator[list[Page]]:
    batch: list[Page] = []
    size = 0
    for page in pages:
        batch.append(page)
        size += len(page.wikitext)
        if size >= BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _clean_batch(pages: Sequence[Page]) -> list[tuple[str, str | None]]:
    return [(page.title, _clean_or_none(page.wikitext)) for page in pages]


def _clean_or_none(wikitext: str) -> str | None:
    try:
        return clean(wikitext)
    except Exception:  # whatever a bug in the parser raises, one page must not end a run of hours; it is counted
        return None


# ------------------------------------------------------------------------------------------------------ dump to pages


def read_pages(dump: Path, skipped: Counter[str], on_progress: Advance = no_progress) -> Iterator[Page]:
    """Pages of the main namespace in the order of the dump, in constant memory; the others are counted in `skipped`."""
    parser = _PageParser(dump, skipped)
    total = dump.stat().st_size
    try:
        with open(dump, "rb") as file, _decompressed(file, dump.suffix) as xml:
            while block := xml.read(BLOCK_BYTES):
                yield from parser.feed(block)
                on_progress(file.tell(), total, "bytes")
        parser.close()
    except (EOFError, OSError, zlib.error, expat.ExpatError) as error:
        place = f"after the page '{parser.last_title}'" if parser.last_title else "before its first page ended"
        raise PruneonceError(f"{dump} ends early or is damaged {place} ({error}): download it again") from error


def _decompressed(
    file: IO[bytes], suffix: str
) -> contextlib.AbstractContextManager[bz2.BZ2File | gzip.GzipFile | IO[bytes]]:
    """The XML in `file`; a multistream .bz2 (many streams, one after the other) reads as one."""
    if suffix == ".bz2":
        return contextlib.closing(bz2.BZ2File(file))
    if suffix == ".gz":
        return contextlib.closing(gzip.GzipFile(fileobj=file))
    return contextlib.nullcontext(file)


class _PageParser:
    """MediaWiki's export XML (https://www.mediawiki.org/wiki/Help:Export) to pages, a block of bytes at a time.

    Events straight from expat: no tree is built, so there is none to clear. Of several revisions the last one counts.
    """

    def __init__(self, dump: Path, skipped: Counter[str]) -> None:
        self.last_title = ""  # of the last page that ended
        self._dump = dump
        self._skipped = skipped
        self._pages: list[Page] = []
        self._fields: dict[str, str] = {}  # of the page being read: title, ns, text; `redirect` when it is one
        self._characters: list[str] = []
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.buffer_size = BLOCK_BYTES
        self._expat.StartDoctypeDeclHandler = self._refuse_doctype
        self._expat.StartElementHandler = self._start
        self._expat.CharacterDataHandler = self._characters.append
        self._expat.EndElementHandler = self._end

    def feed(self, block: bytes) -> list[Page]:
        """The pages that end in `block`."""
        self._expat.Parse(block, False)
        pages, self._pages = self._pages, []
        return pages

    def close(self) -> None:
        """Raise expat.ExpatError unless the document is complete."""
        self._expat.Parse(b"", True)

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._characters.clear()
        if name == "page":
            self._fields.clear()
        elif name == "redirect":
            self._fields[name] = attributes.get("title", "")

    def _end(self, name: str) -> None:
        if name in ("title", "ns", "text"):
            self._fields[name] = "".join(self._characters)
        elif name == "page":
            self._end_page()
        self._characters.clear()

    def _end_page(self) -> None:
        self.last_title = self._fields.get("title", "")
        wikitext = self._fields.get("text", "")
        if self._fields.get("ns", "0") != "0":
            self._skipped["outside the main namespace"] += 1
        elif "redirect" in self._fields or wikitext[:9].upper() == "#REDIRECT":
            self._skipped["redirects"] += 1
        elif not wikitext.strip():
            self._skipped["empty"] += 1
        else:
            self._pages.append(Page(self.last_title, wikitext))

    def _refuse_doctype(self, *_: Any) -> None:
        # No dump has one, and entity declarations in it can expand without bound.
        raise PruneonceError(f"{self._dump} has a DOCTYPE, which no Wikipedia dump has: it is not read")


# ------------------------------------------------------------------------------------------------- wikitext to prose

# Footnotes and comments are a third of an article and hold its most intricate markup; without them parsing is almost
# twice as fast, and a malformed citation cannot derail it.
_UNSEEN = re.compile(r"<!--.*?-->|<ref\b[^<>]*/>|<ref\b[^<>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_QUOTES = re.compile("'{2,5}")  # bold and italic: cheaper here than as nodes, and never unbalanced
_DROPPED_TAGS = frozenset(
    """ref references gallery table math chem ce timeline score imagemap hiero pre source syntaxhighlight graph mapframe
    templatestyles style script inputbox categorytree""".split()
)
_BREAKING_TAGS = frozenset(["hr", "p", "div", "blockquote", "center", "poem"])
# "de:Titel" is an interlanguage link; ":de:Titel" is a visible one.
_DROPPED_LINK = re.compile(r"\s*(?:(?i:file|image|media|category)|[a-z]{2,3}(?:-[a-z-]+)?)\s*:")
_BACK_MATTER = frozenset(
    """see also|references|notes|footnotes|citations|sources|bibliography|further reading|external links|works cited
notes and references|references and notes|literature|discography|filmography|gallery|publications|selected works
selected bibliography|explanatory notes""".replace("\n", "|").split("|")
)
_ITEM = "\x02"  # stands for list markup at the start of a line; XML cannot contain it, and strip() leaves it
_SENTENCE_END = re.compile(r"""[.!?…]["'”’)\]]*$""")

_TIDY = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"__[A-Z]+__", ""),  # magic words: __TOC__, __NOTOC__
        (r"\[\[|\]\]|\{\{|\}\}", ""),  # unbalanced markup
        (r"\s+", " "),
        (r"\((?:[ ;:,/–-]|\b(?:or|and)\b)*\)", ""),  # parentheses emptied of their templates
        (r"\( ?[;:,][ ;:,]*", "("),
        (r"[ ;:,]+\)", ")"),
        (r"\( +", "("),
        (r" +(?=[,;:.!?](?: |$))", ""),
        (r",(?: ?,)+", ","),
        (r" {2,}", " "),
    )
]


def clean(wikitext: str) -> str:
    """The prose of one page: paragraphs separated by one newline; empty when it has none.

    Dropped: templates (but for the few of `_INLINE_TEMPLATES`, which stand for words of the sentence), tables,
    footnotes, files, categories, formulas, code, headings, and the sections that only list (references, see also, ...).
    A list item stays if it ends like a sentence.

    >>> clean("'''Paris''' ({{IPA|x}}; {{lang|la|Lutetia}}) is the [[Capital city|capital]] of [[France]].<ref>x</ref>")
    'Paris (Lutetia) is the capital of France.'
    """
    wikitext = _QUOTES.sub("", _UNSEEN.sub("", wikitext))
    return _paragraphs(_render(mwparserfromhell.parse(wikitext, skip_style_tags=True)))


def _render(code: Any) -> str:
    """Text of a parsed Wikicode, in which list items start with `_ITEM` and blank lines stand around block elements."""
    parts: list[str] = []
    dropping = 0  # level of the heading (1 to 6) whose section is being dropped; 0: none
    for node in code.nodes:
        if isinstance(node, nodes.Heading):
            parts.append("\n\n")
            if not dropping or node.level <= dropping:
                title = str(node.title).strip().casefold()
                dropping = node.level if title in _BACK_MATTER else 0
        elif not dropping:
            parts.append(_RENDERERS[type(node)](node))
    return "".join(parts)


def _render_link(link: Any) -> str:
    title = str(link.title)
    if _DROPPED_LINK.match(title):
        return ""
    return _render(link.text) if link.text is not None else title.lstrip(":")


def _render_tag(tag: Any) -> str:
    if tag.wiki_markup in ("*", "#", ":", ";"):
        return _ITEM
    name = str(tag.tag).strip().casefold()
    if name in _DROPPED_TAGS:
        return ""
    if name == "br":
        return " "
    inside = _render(tag.contents) if tag.contents is not None else ""
    if name == "li":
        return f"\n{_ITEM}{inside}\n"
    return f"\n\n{inside}\n\n" if name in _BREAKING_TAGS else inside


def _render_template(template: Any) -> str:
    name = str(template.name).strip().casefold().replace("_", " ")
    words = _first if name.startswith("lang-") else _INLINE_TEMPLATES.get(name)
    if words is None:
        return ""
    return words([_render(parameter.value).strip() for parameter in template.params if not parameter.showkey])


def _first(arguments: list[str]) -> str:
    return arguments[0] if arguments else ""


def _last(arguments: list[str]) -> str:
    return arguments[-1] if arguments else ""


def _measure(arguments: list[str]) -> str:
    """{{convert|5|km}} and {{convert|5|to|7|km|mi}}: the quantity in the unit of the source."""
    is_range = len(arguments) > 3 and arguments[1] in ("to", "-", "–", "and", "or", "by", "x")
    return " ".join(arguments[: 4 if is_range else 2])


# Templates that stand for words within a sentence: their positional arguments to text.
_INLINE_TEMPLATES: dict[str, Callable[[list[str]], str]] = {
    **dict.fromkeys(["nowrap", "nobr", "nobold", "small", "smaller", "big", "abbr", "val", "ill", "sic"], _first),
    **dict.fromkeys(["interlanguage link", "quote", "blockquote", "cquote", "quotation"], _first),
    **dict.fromkeys(["lang", "transl", "transliteration"], _last),
    **dict.fromkeys(["convert", "cvt"], _measure),
    **dict.fromkeys(["ndash", "mdash", "dash", "snd", "spnd", "spaced ndash", "–", "—"], lambda _: " – "),
    **dict.fromkeys(["circa", "c.", "ca."], lambda arguments: " ".join(["c.", *arguments[:1]])),
    "as of": lambda arguments: " ".join(["As of", *arguments[:1]]),
    "'": lambda _: "'",
}

_RENDERERS: dict[type, Callable[[Any], str]] = {
    nodes.Text: lambda node: node.value,
    nodes.Wikilink: _render_link,
    nodes.Tag: _render_tag,
    nodes.Template: _render_template,
    nodes.ExternalLink: lambda node: _render(node.title) if node.title is not None else "",
    nodes.HTMLEntity: lambda node: node.normalize(),
    nodes.Comment: lambda _: "",
    nodes.Argument: lambda node: _render(node.default) if node.default is not None else "",
}


def _paragraphs(rendered: str) -> str:
    """Lines to paragraphs: as in MediaWiki a newline alone is a space; blank lines and list items end one."""
    paragraphs: list[str] = []
    lines: list[str] = []  # of the paragraph being read
    for line in [*rendered.split("\n"), ""]:
        text = line.replace(_ITEM, " ").strip()
        is_item = line.lstrip().startswith(_ITEM)
        if is_item or not text:
            paragraphs.append(" ".join(lines))
            lines = []
        if is_item and _SENTENCE_END.search(text):
            paragraphs.append(text)
        elif not is_item and text and text[0] not in "{|!}":  # what is left of a table that is not closed
            lines.append(text)
    return "\n".join(filter(_is_prose, map(_tidy, paragraphs)))


def _is_prose(paragraph: str) -> bool:
    if not any(map(str.isalpha, paragraph)):
        return False
    return bool(_SENTENCE_END.search(paragraph)) or len(paragraph.split()) >= FRAGMENT_WORDS


def _tidy(paragraph: str) -> str:
    paragraph = html.unescape(paragraph)  # some pages escape entities twice
    for pattern, replacement in _TIDY:
        paragraph = pattern.sub(replacement, paragraph)
    return paragraph.strip()
