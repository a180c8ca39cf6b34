"""The HTML page: self-contained, escaped, well-formed; its tables mark numbers."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np

from kdsr_arch.report.page import Page

_VOID = {"meta", "img", "br"}


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.attributes = [], []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def make(tmp_path):
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.full((4, 4, 3), 90, np.uint8))
    page = Page("A <title> & more", "lead")
    page.section("Results", "text")
    page.finding("found 0.1 dB")
    page.table(["network", "parameters", "PSNR"], [["<b>one</b>", "12,345", "-"], ["two", "7", "30.10"]], "RGB, crop 4")
    page.image(picture, "a picture")
    page.code("kdsr demo")
    return page.write(tmp_path / "deep" / "page.html"), picture


def test_self_contained_and_well_formed(tmp_path):
    path, picture = make(tmp_path)
    html = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    addresses = [value for name, value in reader.attributes if name in ("src", "href", "action", "srcset")]
    assert addresses and all(value.startswith("data:image/png;base64,") for value in addresses)
    assert base64.b64decode(addresses[0].split(",", 1)[1]) == picture.read_bytes()
    assert not re.search(r"https?://|@import|url\(", html)


def test_texts_are_escaped(tmp_path):
    html = make(tmp_path)[0].read_text(encoding="utf-8")
    assert "A &lt;title&gt; &amp; more" in html and "<b>one</b>" not in html


def test_numbers_are_marked(tmp_path):
    html = make(tmp_path)[0].read_text(encoding="utf-8")
    cells = re.findall(r'<td class="number">(.*?)</td>', html)
    assert cells == ["12,345", "-", "7", "30.10"]
    assert '<th scope="row">two</th>' in html


def test_light_and_dark(tmp_path):
    assert "prefers-color-scheme: dark" in make(tmp_path)[0].read_text(encoding="utf-8")
