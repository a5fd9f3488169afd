"""Text to sentences: small, fast and deterministic, for packing pre-training examples (not for linguistics).

A sentence ends at `.`, `!`, `?` or `…`, plus closing quotes and brackets, before white space and something that can
start a sentence. A single full stop does not end one after an abbreviation. Two kinds of these are told apart, in the
spirit of Kiss & Strunk 2006 (https://aclanthology.org/J06-4003): some never end a sentence ("Mr."), others may ("U.S.",
an initial), and do so when a frequent sentence starter follows.
"""

from __future__ import annotations

import re

# The lookbehind keeps a long run of full stops from being tried from each of them, which would take quadratic time.
_BOUNDARY = re.compile(r"""(?<![.!?…])([.!?…]+)["'”’»)\]]*\s+|[。！？]["'”’»）」』]*""")
_OPENING = "\"'“‘«([{¿¡"
_LAST_WORD = re.compile(r"[^\s\"'“‘«(\[/–—-]*$")
_NEXT_WORD = re.compile(r"[^\W\d_]+")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)*[^\W\d_]")  # J, U.S


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NEVER_ENDS = _words("""
    mr mrs ms messrs mme mlle dr drs prof profs rev revd hon st ste mt ft gen adm maj col capt cmdr cpl lt sgt gov sen
    rep pres supt fr e.g i.e eg ie cf viz vs v fig figs eq eqs sec ch vol vols pp ed eds trans approx ca c circa b d r
    fl lit est nr op esp incl resp
""")
_NUMBER_FOLLOWS = _words("no nos p art ver jan feb mar apr jun jul aug")  # abbreviations only before a digit
_MAY_END = _words("""
    jr sr inc ltd co corp bros llc plc etc al ph.d m.d b.a m.a a.m p.m a.d b.c b.c.e c.e dept univ assn ave blvd rd hwy
    sept oct nov dec mon tue wed thu fri sat sun
""")
_STARTERS = _words("""
    a after all also although among an and as at because before both but by despite during each even every few for from
    he her here his how however i if in instead it its later many more most no of on once one only other our over
    several she since so some such that the their then there these they this those though through thus to today two
    under until upon we what when where which while who with within without you
""")


def split_sentences(text: str) -> list[str]:
    """Sentences of `text` in order, without surrounding white space; none crosses a newline.

    Nothing but white space between sentences is lost.

    >>> split_sentences('Dr. J. Smith (b. 1950) moved to the U.S. in 1970. "Why?" He was 3.5 km away.')
    ['Dr. J. Smith (b. 1950) moved to the U.S. in 1970.', '"Why?"', 'He was 3.5 km away.']
    """
    return [sentence for line in text.split("\n") for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    sentences = []
    start = 0
    for boundary in _BOUNDARY.finditer(line):
        if _ends_sentence(line, start, boundary):
            sentences.append(line[start : boundary.end()].strip())
            start = boundary.end()
    sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _ends_sentence(line: str, start: int, boundary: re.Match[str]) -> bool:
    """Whether the sentence that began at `start` ends at `boundary`."""
    after = boundary.end()
    while after < len(line) and line[after] in _OPENING:
        after += 1
    if after < len(line) and line[after].islower():
        return False
    # "(U.S.) The" has closed what held the abbreviation: only a bare full stop can belong to one.
    if boundary[1] != "." or not boundary[0][1:2].isspace():
        return True
    return not _is_abbreviation(line, start, boundary.start(), after)


def _is_abbreviation(line: str, start: int, stop: int, after: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it and ends no sentence; text goes on at `after`."""
    last = _LAST_WORD.search(line, max(start, stop - 20), stop)  # no abbreviation is longer
    word = last[0].lower() if last else ""
    if word in _NEVER_ENDS:
        return True
    if word in _NUMBER_FOLLOWS:
        return line[after : after + 1].isdigit()
    if word in _MAY_END or _INITIALS.fullmatch(word):
        following = _NEXT_WORD.match(line, after)
        return following is not None and following[0].lower() not in _STARTERS
    return False
