"""The page at `/` for people: which models run, a form to try each, and how busy they are. It asks the other routes."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

from pruneonce.serve.route import Exchange, Reply, Route

PAGE = Path(__file__).with_name("page.html").read_bytes()


def _digest(tag: bytes) -> str:
    """Of what stands in the page's only such element, as a policy names it."""
    inside = re.findall(rb"<%s>(.*?)</%s>" % (tag, tag), PAGE, re.DOTALL)
    assert len(inside) == 1, tag
    return f"'sha256-{base64.b64encode(hashlib.sha256(inside[0]).digest()).decode()}'"


# Nothing runs in it but what is in the file, nothing is fetched from elsewhere, no other page may frame it.
POLICY = (
    f"default-src 'none'; script-src {_digest(b'script')}; style-src {_digest(b'style')}; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def page(_: Exchange, __: None) -> Reply:
    headers = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
    return Reply(PAGE, "text/html; charset=utf-8", headers=headers)


# Without a key, which a browser cannot send when it opens a page: the same bytes for all, and what it asks needs one.
ROUTE = Route("GET", "/", page, "The page for people", is_open=True)
