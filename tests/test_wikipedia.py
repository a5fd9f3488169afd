from __future__ import annotations

import bz2
import gzip
import os
import tracemalloc
from collections import Counter
from xml.sax.saxutils import escape

import pytest

from pruneonce.data import articles, wikipedia
from pruneonce.errors import PruneonceError, UsageError


def page(title, text, *, ns=0, redirect=""):
    mark = f'<redirect title="{escape(redirect)}" />' if redirect else ""
    return (
        f"<page><title>{escape(title)}</title><ns>{ns}</ns><id>1</id>{mark}<revision><comment>text</comment>"
        f'<text xml:space="preserve">{escape(text)}</text></revision></page>'
    )


def dump_of(*pages):
    header = '<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/"><siteinfo><sitename>W</sitename></siteinfo>'
    return (header + "\n".join(pages) + "</mediawiki>").encode()


def write(path, *pages):
    path.write_bytes({".bz2": bz2.compress, ".gz": gzip.compress}.get(path.suffix, bytes)(dump_of(*pages)))
    return path


PAGES = [
    page("One & Co", "'''One''' is first.\n\nIt has two paragraphs."),
    page("Old name", "#REDIRECT [[One & Co]]", redirect="One & Co"),
    page("Older name", "#redirect [[One & Co]]"),
    page("Talk:One", "Chatter.", ns=1),
    page("Nothing", "  "),
    page("Box", "{{Infobox|a=b}}"),
    page("Two", "Two is second."),
]


# -------------------------------------------------------------------------------------------------------------- dumps


@pytest.mark.parametrize("name", ["d.xml", "d.xml.bz2", "d.xml.gz"])
def test_redirects_other_namespaces_and_empty_pages_are_dropped_and_counted(tmp_path, name):
    outcome = wikipedia.extract(write(tmp_path / name, *PAGES), tmp_path / "out")
    assert list(articles.read(tmp_path / "out")) == [
        ("One & Co", "One is first.\nIt has two paragraphs."),
        ("Two", "Two is second."),
    ]
    assert outcome.manifest["skipped"] == {
        "redirects": 2,
        "outside the main namespace": 1,
        "empty": 1,
        "without prose": 1,
    }


def test_multistream_bz2_reads_as_one(tmp_path):
    xml = dump_of(*PAGES)
    (tmp_path / "d.xml.bz2").write_bytes(b"".join(bz2.compress(xml[i : i + 200]) for i in range(0, len(xml), 200)))
    assert [p.title for p in wikipedia.read_pages(tmp_path / "d.xml.bz2", Counter())] == ["One & Co", "Box", "Two"]


def test_same_bytes_with_one_and_two_workers(tmp_path, monkeypatch):
    monkeypatch.setattr(wikipedia, "BATCH_CHARS", 60)
    dump = write(tmp_path / "d.xml", *(page(f"T{i}", f"Article {i} is here. " * (i + 1)) for i in range(20)))
    for workers in (1, 2):
        wikipedia.extract(dump, tmp_path / str(workers), workers=workers, shard_bytes=1000)
    one, two = ({f.name: f.read_bytes() for f in (tmp_path / w).iterdir()} for w in "12")
    assert one == two
    assert len(one) > 3


@pytest.mark.parametrize("suffix", [".xml", ".xml.bz2", ".xml.gz"])
def test_truncated_dump_is_an_error_that_names_the_last_page_and_leaves_no_manifest(tmp_path, suffix):
    xml = dump_of(*PAGES)
    data = {
        ".xml": xml[: xml.index(b"<page><title>Nothing")],
        ".xml.bz2": bz2.compress(xml),
        ".xml.gz": gzip.compress(xml),
    }
    cut = data[suffix] if suffix == ".xml" else data[suffix][:-12]
    dump = tmp_path / f"d{suffix}"
    dump.write_bytes(cut)
    with pytest.raises(PruneonceError, match=r"d\.xml.* ends early or is damaged") as caught:
        wikipedia.extract(dump, tmp_path / "out")
    if suffix == ".xml":
        assert "after the page 'Talk:One'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize("content", [b"", b"not bzip2 at all", bz2.compress(b"not XML"), bz2.compress(b"<a></b>")])
def test_file_that_is_no_dump_is_one_line(tmp_path, content):
    (tmp_path / "d.xml.bz2").write_bytes(content)
    with pytest.raises(PruneonceError, match="before its first page ended"):
        wikipedia.extract(tmp_path / "d.xml.bz2", tmp_path / "out")


def test_entity_expansion_is_refused(tmp_path):
    bomb = (
        b'<!DOCTYPE m [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><mediawiki><page><title>&b;</title></page></mediawiki>'
    )
    (tmp_path / "d.xml").write_bytes(bomb)
    with pytest.raises(PruneonceError, match=r"d\.xml has a DOCTYPE"):
        wikipedia.extract(tmp_path / "d.xml", tmp_path / "out")


def test_missing_dump_and_wrong_suffix_are_usage_errors(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        wikipedia.extract(tmp_path / "d.xml", tmp_path / "out")
    with pytest.raises(UsageError, match=r"ends in \.xml"):
        wikipedia.extract(tmp_path / "d.7z", tmp_path / "out")


def test_page_on_which_the_parser_fails_is_counted_not_a_crash(tmp_path, monkeypatch):
    real = wikipedia.mwparserfromhell.parse

    def fails_on_two(wikitext, **options):
        if "second" in wikitext:
            raise IndexError("a bug")
        return real(wikitext, **options)

    monkeypatch.setattr(wikipedia.mwparserfromhell, "parse", fails_on_two)
    outcome = wikipedia.extract(write(tmp_path / "d.xml", *PAGES), tmp_path / "out")
    assert outcome.manifest["skipped"]["unparsable"] == 1
    assert [title for title, _ in articles.read(tmp_path / "out")] == ["One & Co"]


def test_memory_does_not_grow_with_the_dump(tmp_path):
    def peak(pages):
        dump = tmp_path / f"{pages}.xml.gz"
        dump.write_bytes(gzip.compress(dump_of(*(page(f"T{i}", f"Sentence {i}. " * 700) for i in range(pages)))))
        tracemalloc.start()
        count = sum(1 for _ in wikipedia.read_pages(dump, Counter()))
        _, highest = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert count == pages
        return highest

    assert peak(2000) < 1.3 * peak(500)  # 20 MB and 5 MB of XML


def test_progress_counts_bytes_of_the_dump(tmp_path):
    dump = write(tmp_path / "d.xml.bz2", *PAGES)
    seen = []
    wikipedia.extract(dump, tmp_path / "out", on_progress=lambda *step: seen.append(step))
    assert seen[-1] == (dump.stat().st_size, dump.stat().st_size, "bytes")


# ----------------------------------------------------------------------------------------------------------- wikitext


@pytest.mark.parametrize(
    ("wikitext", "prose"),
    [
        ("A [[b]] [[c|d]] [http://x.org e] ''f'' '''g'''.", "A b d e f g."),
        ("A.<ref name=x>{{cite|url=y}}</ref> B.<ref name=x/> C.<!-- hidden --> D.", "A. B. C. D."),
        ("{{Infobox|a=[[b]]\n|c={{d}}}}\nText is here.", "Text is here."),
        ('{| class="wikitable"\n! a\n|-\n| b || c\n|}\nText is here.', "Text is here."),
        ("{| never closed\n| b || c\nText is here.", "Text is here."),
        ("[[File:a.jpg|thumb|A [[caption]].]]Text is here.[[Category:X]][[de:Y]]", "Text is here."),
        ("See [[:Category:X]] and [[:File:a.jpg|this]].", "See Category:X and this."),
        ("<gallery>\na.jpg|b\n</gallery>__NOTOC__Text is here.", "Text is here."),
        ("Text is here.\n== See also ==\n* This is a link.\n=== Sub ===\nA.\n== Next ==\nB.", "Text is here.\nB."),
        ("Text:\n* An item that is a sentence.\n* an item\n# ''Number.''", "An item that is a sentence.\nNumber."),
        ("One line\ngoes on.\n\nNext one.", "One line goes on.\nNext one."),
        ("Tom &amp; Jerry&nbsp;are &amp;ndash; here.", "Tom & Jerry are – here."),
        (
            "Bonn ({{IPA|b}}) lies ({{a}}; {{b}}) there ({{a}}, in {{convert|5|km|mi}}) too.",
            "Bonn lies there (in 5 km) too.",
        ),
        (
            "From {{lang|la|lux}} and {{lang-el|φως}}, {{nowrap|in 5}}{{ndash}}6 days.",
            "From lux and φως, in 5 – 6 days.",
        ),
        ("Tom{{citation needed}} , {{a}}, and Jerry {{b}}.", "Tom, and Jerry."),
        (
            "A<sub>2</sub> is <math>x^2</math> so<br/>it is <code>x</code> <nowiki>[[raw]]</nowiki>.",
            "A2 is so it is x raw.",
        ),
        ("{{disambig}} '''X''' may refer to:\n* [[Y]]\n* [[Z]]", ""),
        ("", ""),
    ],
)
def test_clean(wikitext, prose):
    assert wikipedia.clean(wikitext) == prose


@pytest.mark.parametrize(
    "wikitext", ["{{" * 500, "[[" * 500, "{|" * 200, "<div>" * 300, "'''''" * 99, "}}]]|}</b>", "<"]
)
def test_unbalanced_markup_is_cleaned_or_skipped_never_a_crash(wikitext):
    assert wikipedia._clean_or_none(f"{wikitext} Text is here.") is not None


def test_real_dump(tmp_path):
    dump = os.environ.get("PRUNEONCE_TEST_DUMP")
    if not dump:
        pytest.skip("PRUNEONCE_TEST_DUMP does not name gensim's enwiki-latest-...-shortened.bz2 (in its PyPI wheel)")
    outcome = wikipedia.extract(dump, tmp_path / "out", workers=2)
    assert outcome.manifest["articles"] + sum(outcome.manifest["skipped"].values()) == 206
    everything = "\n".join(text for _, text in articles.read(tmp_path / "out"))
    assert len(everything.split()) > 400_000
    for residue in ("[[", "]]", "{{", "}}", "<ref", "'''", "()", "( ", "&nbsp;", "thumb|", "Category:"):
        assert residue not in everything
    assert "Anarchism is a political philosophy that advocates self-governed societies" in everything
