from __future__ import annotations

import io
import json
import struct
import zipfile
from functools import cache
from pathlib import Path

import docx
import pytest
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from hypothesis import given
from hypothesis import strategies as st

from loadtest import extraction
from loadtest.specimens import PARAGRAPH, RUN, form, pdf, rewritten_pdf, saved, within_word
from serve_app.domain import Document
from serve_app.errors import UnprocessableDocument
from serve_app.retrieval.formats import SUFFIXES, read


def only(name: str, data: bytes | str) -> Document:
    """The one document of a file without problems."""
    reading = read(name, data.encode() if isinstance(data, str) else data)
    assert reading.problems == []
    (document,) = reading.documents
    return document


def refusal(name: str, data: bytes) -> str:
    with pytest.raises(UnprocessableDocument) as caught:
        read(name, data)
    assert caught.value.message.startswith(f"{name}: ")
    return caught.value.message


@cache
def word() -> bytes:
    """A DOCX with headings, lists, and a table between two paragraphs."""
    document = docx.Document()
    document.add_heading("Travel", level=1)
    document.add_paragraph("Hotels: 190.")
    document.add_heading("Trains", level=2)
    document.add_paragraph("Second class.", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for i, text in enumerate(("City", "Limit", "Rome", "190")):
        table.cell(i // 2, i % 2).text = text
    document.add_paragraph("The end.")
    return saved(document)


def test_front_matter_gives_id_title_and_metadata() -> None:
    document = only(
        "a/travel-policy.md",
        "---\nid: travel\ntitle: Travel\nas_of: 2026-01-31\nrank: 3\nowner:\n---\nHotels: 190.\n",
    )
    assert document == Document(
        "travel", "Travel", "Hotels: 190.\n", {"as_of": "2026-01-31", "rank": 3}
    )


@pytest.mark.parametrize("suffix", [".md", ".markdown", ".txt", ".TXT"])
def test_without_front_matter_heading_and_name_serve(suffix: str) -> None:
    document = only(f"travel{suffix}", "# Travelling\nHotels: 190.\n")
    assert (document.id, document.title) == ("travel", "Travelling")
    assert only(f"travel{suffix}", "Hotels: 190.\n").title == "travel"


def test_url_is_named_by_the_last_part_of_its_path() -> None:
    assert only("https://example.org/a/travel.html?v=1.2#top", "<p>Hotels").id == "travel"


@pytest.mark.parametrize(
    ("encoding", "mark"),
    [("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")],
)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends_are_understood(
    encoding: str, mark: bytes, end: str
) -> None:
    text = "---\ntitle: Café\n---\nHotels: 190.\n".replace("\n", end)
    document = only("a.md", mark + text.encode(encoding))
    assert (document.title, document.text) == ("Café", "Hotels: 190.\n")


def test_a_bad_byte_is_lost_alone() -> None:
    for name in ("a.md", "a.csv", "a.jsonl"):
        start = {"a.csv": "text\n", "a.jsonl": '{"id": "a", "text": "'}.get(name, "")
        end = '"}' if name == "a.jsonl" else ""
        data = f"{start}Crème – ".encode() + b"\xe9 5" + end.encode()
        reading = read(name, data)
        assert reading.documents[0].text == "Crème – \ufffd 5"
        assert reading.losses(name) == f"{name}: left out undecodable bytes (1)"
    data = b"word " * 1000 + b"\x93 end"
    assert read("a.txt", data).documents[0].text.endswith("\ufffd end")


@pytest.mark.parametrize(
    "text",
    [
        "---\n\n# Opening hours\n\nMonday to Friday.\n\n---\n\nClosed on holidays.\n",
        "---\n\nNote: closed on Mondays\n\n---\n\nText\n",
        "---\nJust a line\n---\nText\n",
        "---\n# Only a heading\n---\nText\n",
        "Text\n\n---\ntitle: x\n---\n",
    ],
)
def test_text_between_rules_is_no_front_matter(text: str) -> None:
    document = only("a.md", text)
    assert (document.text, document.metadata) == (text, {})


def test_texts_of_front_matter_stay_texts() -> None:
    written = {
        "id": "007",
        "title": "1.10",
        "phone": "0123",
        "code": "0x1F",
        "time": "12:30",
        "on_sale": "yes",
        "thousands": "1_000",
        "version": "2.0.1",
        "short": ".5",
        "as_of": "2026-03-14T09:30:00Z",
        "from": "2026-01-31",
    }
    lines = "".join(f"{key}: {value}\n" for key, value in written.items())
    document = only("a.md", f"---\n{lines}rank: 3\nshare: 0.5\nlive: true\nnone: ~\n---\nText")
    assert (document.id, document.title) == ("007", "1.10")
    given = {key: value for key, value in written.items() if key not in ("id", "title")}
    assert document.metadata == given | {"rank": 3, "share": 0.5, "live": True}
    assert [type(value) for value in list(document.metadata.values())[-3:]] == [int, float, bool]


def test_front_matter_may_end_the_file_or_its_lines_in_blanks() -> None:
    assert only("a.md", "--- \ntitle: x\n---\t\nText").title == "x"
    assert "holds no text" in refusal("a.md", b"---\ntitle: x\n---")


def test_title_is_the_first_heading_that_is_one() -> None:
    assert only("a.md", "```\n# no\n```\nTitle\n=====\nText").title == "Title"
    assert only("a.md", f"# {'x' * 2000}\nText").title == "a"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no text"),
        (b"---\ntitle: x\n---\n \n", "holds no text"),
        (b"caf\xe9", "not UTF-8 text; convert it first"),
        (b"\xff\xfea", "not UTF-8 text"),
        (b"text\0text", "binary"),
        ("text".encode("utf-32"), "binary"),
        (b"---\ntitle: [x\n---\ntext", "not valid YAML"),
        (b"---\nas_of: 2026-13-45\n---\ntext", "no timestamp"),
        (b"---\na: !!timestamp x\n---\ntext", "no timestamp"),
        (b"---\n- a\n- b\n---\ntext", "key: value"),
        (b"---\na: &a [*a]\n---\ntext", "holds itself"),
        (b"---\ntitle: x\ntitle: y\n---\ntext", "front matter:3: `title` is given twice"),
    ],
)
def test_unreadable_text_is_refused_with_its_reason(content: bytes, reason: str) -> None:
    assert reason in refusal("docs/a.md", content)


@pytest.mark.parametrize("name", ["photo.png", "README", ".md", "https://example.org/docs/"])
def test_unknown_format_is_refused_with_those_there_are(name: str) -> None:
    assert ", ".join(SUFFIXES) in refusal(name, b"text")


def test_html_keeps_what_carries_meaning() -> None:
    page = """<!DOCTYPE html><html><head><title>Travel
      policy</title><style>p {}</style><script>var a = "b";</script></head><body>
      <header>Banner</header><nav><ul><li>Home</li></ul></nav><!-- note -->
      <h1>Trips<br>abroad</h1>Intro <b>te</b>xt.<h2><div>Hotels</div></h2>
      <ul><li>Rome</li><li><p>Oslo</p></li></ul>
      <table><tr><th>City</th><th>Limit</th></tr><tr><td><p>Rome</p></td><td>190</td></tr></table>
      <pre># not a heading\n  indented</pre>
      <p>One<br>Two</p><footer>Imprint</footer></body></html>"""
    document = only("a.html", page)
    assert (document.id, document.title) == ("a", "Travel policy")
    assert document.text.splitlines() == [
        "# Trips abroad",
        *("", "Intro text."),
        *("", "## Hotels"),
        *("", "- Rome", "- Oslo"),
        *("", "City | Limit", "Rome | 190"),
        *("", "```", "# not a heading", "  indented", "```"),
        *("", "One", "Two"),
    ]


def test_html_without_title_takes_heading() -> None:
    assert only("a.htm", "<svg><title>Icon</title></svg><h1>Trips</h1><p>Text").title == "Trips"


@pytest.mark.parametrize(
    "data",
    [
        '<meta charset="iso-8859-2"><p>Łódź'.encode("iso-8859-2"),
        "<p>Łódź".encode(),
        b"\xff\xfe" + "<p>Łódź".encode("utf-16-le"),
        '<?xml version="1.0" encoding="iso-8859-2"?><html><p>Łódź'.encode("iso-8859-2"),
        "Łódź".encode(),
    ],
)
@pytest.mark.filterwarnings("error")
def test_html_is_decoded_as_it_says(data: bytes) -> None:
    assert only("a.html", data).text == "Łódź"


@pytest.mark.parametrize(
    ("data", "text", "lost"),
    [
        (b'<meta charset="iso-8859-1"><p>\x80 5 \x96 \x93a\x94', "€ 5 – “a”", 0),
        (b'<meta charset="latin1"><p>\x85', "…", 0),
        (b'<meta charset="us-ascii"><p>caf\xe9', "café", 0),
        (b'<?xml version="1.0" encoding="ISO-8859-1"?><p>\x80', "€", 0),
        ('<meta charset="gb2312"><p>朱镕基'.encode("gb18030"), "朱镕基", 0),
        ('<meta charset="shift_jis"><p>①'.encode("cp932"), "①", 0),
        ("<meta charset=utf-8><p>Crème ".encode() + b"\xe9 5", "Crème \ufffd 5", 1),
        ('<meta charset="windows-1251"><p>Привет'.encode("cp1251") + b"\x98", "Привет\ufffd", 1),
        ('<meta charset="euc-kr"><p>한국'.encode("euc-kr") + b"\xff", "한국\ufffd", 1),
        ('<meta charset="utf-16"><p>é'.encode(), "é", 0),
        ('<meta charset="no-such"><p>é'.encode(), "é", 0),
        (b"\xef\xbb\xbf" + '<meta charset="iso-8859-1"><p>é'.encode(), "é", 0),
        ("<p>Crème – ".encode() + b"\xe9", "Crème – \ufffd", 1),
        ("<p>Crème br\u00fblée \u2013 5 €".encode("cp1252"), "Crème brûlée – 5 €", 0),
    ],
)
def test_html_keeps_its_encoding_and_loses_bad_bytes_alone(
    data: bytes, text: str, lost: int
) -> None:
    reading = read("a.html", data)
    assert reading.documents[0].text == text
    assert reading.left_out["undecodable bytes"] == lost


def test_html_code_stands_as_a_browser_shows_it() -> None:
    page = """<pre>a = 1<br>b = 2</pre><pre><div>c</div><div>d<br/></div>e</pre>
      <pre><code class="x"><span># no heading</span>
  indented</code></pre><ul><li><pre>in
list</pre></li></ul><pre>```
fence</pre>"""
    assert only("a.html", page).text.split("\n\n") == [
        "```\na = 1\nb = 2\n```",
        "```\nc\nd\ne\n```",
        "```\n# no heading\n  indented\n```",
        "```\nin\nlist\n```",
        "````\n```\nfence\n````",
    ]


def test_html_headers_within_the_text_are_text() -> None:
    page = """<header><h2>Shop</h2></header><main><article><header><h1>Guide</h1><p>Valid from May.
      </p></header><section><header>Part</header><p>Body.</p></section><footer>By Ann.</footer>
      <nav>More</nav></article></main><footer>Imprint</footer>"""
    reading = read("a.html", page.encode())
    assert reading.documents[0].text.split() == (
        "# Guide Valid from May. Part Body. By Ann.".split()
    )
    assert reading.left_out["menus, headers and footers of the page"] == 3


def test_html_that_nobody_sees_is_left_out_and_counted() -> None:
    page = """<p hidden>one</p><div style="color: red; DISPLAY : none !important"><p>two</p></div>
      <span style="visibility:hidden">three</span><b style="font-size:0px">four</b>
      <i style="opacity:0">five</i><div hidden></div><input type="hidden" value="six">
      <p style="opacity:0.5">seen</p><p hidden="until-found">also</p><img src="a.png" alt="">"""
    reading = read("a.html", page.encode())
    assert reading.documents[0].text.split() == ["seen", "also"]
    assert reading.losses("a.html") == "a.html: left out hidden elements (5), pictures (1)"


def test_html_of_many_unclosed_tags_costs_no_more_than_its_size() -> None:
    assert only("a.html", "x" + "<a " * 100_000).text == "x"


def test_html_nested_deeper_than_python_recurses_is_read() -> None:
    assert only("a.html", "<div><ul><li>" * 3000 + "deep").text == "- deep"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<script>1</script>", "holds no text"),
        (b"a\0b", "binary"),
        (b"<![x[y]]>", "holds no text"),
    ],
)
def test_unreadable_html_is_refused(content: bytes, reason: str) -> None:
    assert reason in refusal("a.html", content)


def test_pdf_is_read_by_page() -> None:
    document = only("a.pdf", pdf("Hello", "World"))
    assert (document.id, document.title) == ("a", "a")
    assert document.text == "## Page 1\n\nHello\n\n## Page 2\n\nWorld"


def test_pdf_properties_give_title() -> None:
    data = rewritten_pdf(lambda writer: writer.add_metadata({"/Title": "Greeting"}))
    assert only("a.pdf", data).title == "Greeting"


def test_pdf_page_without_text_is_a_problem() -> None:
    reading = read("a.pdf", pdf("Hello", ""))
    assert reading.documents[0].text == "## Page 1\n\nHello"
    assert reading.problems == ["a.pdf, page 2: holds no text; it may be a scan"]


def test_pdf_form_is_read_with_what_it_is_filled_with() -> None:
    reading = read("a.pdf", rewritten_pdf(form))
    assert reading.documents[0].text == (
        "## Page 1\n\nHello\n\napplicant: Ann O'Neil\nAccount number: NO93 8601\n"
        "agreed: Yes\ndays: Mon, Tue"
    )
    assert reading.losses("a.pdf") == "a.pdf: left out comments (1)"


def test_pdf_that_opens_without_password_is_read() -> None:
    data = rewritten_pdf(lambda writer: writer.encrypt("", "owner", algorithm="RC4-128"))
    assert "Hello" in only("a.pdf", data).text


def test_unreadable_pdf_is_refused_with_its_reason() -> None:
    locked = rewritten_pdf(lambda writer: writer.encrypt("secret", algorithm="RC4-128"))
    assert "encrypted; save it without a password" in refusal("a.pdf", locked)
    assert "not a PDF, or damaged" in refusal("a.pdf", b"%PDF-1.4 and then nothing")
    assert "not a PDF, or damaged" in refusal("a.pdf", b"")
    assert "holds no text; it may be a scan, run OCR first" in refusal("a.pdf", pdf("", ""))


def test_docx_keeps_headings_lists_and_tables_in_order() -> None:
    document = only("a.docx", word())
    assert (document.id, document.title) == ("a", "Travel")
    assert document.text.split("\n\n") == [
        "# Travel",
        "Hotels: 190.",
        "## Trains",
        "- Second class.",
        "City | Limit\nRome | 190",
        "The end.",
    ]


def test_docx_properties_give_title() -> None:
    document = docx.Document()
    document.core_properties.title = "Policy"
    document.add_paragraph("Text")
    assert only("a.docx", saved(document)).title == "Policy"


def test_docx_text_in_content_controls_and_tracked_insertions_is_kept() -> None:
    document = docx.Document()
    run = "<w:r><w:t>{}</w:t></w:r>"
    control = (
        f"<w:sdt {nsdecls('w')}><w:sdtPr/><w:sdtContent><w:p>{run}</w:p></w:sdtContent></w:sdt>"
    )
    document.element.body.insert(0, parse_xml(control.format("Controlled")))
    document.add_paragraph("Then ")._p.append(
        parse_xml(f"<w:ins {nsdecls('w')}>{run.format('inserted')}</w:ins>")
    )
    assert only("a.docx", saved(document)).text == "Controlled\n\nThen inserted"


def test_docx_merged_cells_are_read_once_and_nested_tables_too() -> None:
    document = docx.Document()
    table = document.add_table(rows=1, cols=3)
    table.cell(0, 0).merge(table.cell(0, 1)).text = "Both"
    table.cell(0, 2).add_table(rows=1, cols=1).cell(0, 0).text = "Inner"
    assert only("a.docx", saved(document)).text.strip() == "Both | Inner"


def test_docx_boxes_footnotes_and_fields_are_kept() -> None:
    box = f"<w:txbxContent>{PARAGRAPH}{PARAGRAPH}</w:txbxContent>".format("Warning:", "hot.")
    drawn = f"<w:drawing><wp:inline><wps:txbx>{box}</wps:txbx></wp:inline></w:drawing>"
    old = f"<w:pict><v:shape><v:textbox>{box}</v:textbox></v:shape></w:pict>"
    both = (
        f"<w:r><mc:AlternateContent><mc:Choice>{drawn}</mc:Choice>"
        f"<mc:Fallback>{old}</mc:Fallback></mc:AlternateContent></w:r>"
    )
    field = '<w:fldSimple w:instr="DOCPROPERTY x">{}</w:fldSimple>'.format(RUN.format("1 May"))
    note = '<w:r><w:{0}Reference w:id="{1}"/></w:r>'
    body = (
        f"<w:p>{RUN.format('Check it.')}{note.format('footnote', 2)}{both}</w:p>"
        f"<w:p>{RUN.format('Valid until ')}{field}{note.format('endnote', 3)}</w:p>"
        f"<w:p><w:r>{old}</w:r></w:p>"
        f"<w:p><w:moveTo>{RUN.format('Moved here.')}</w:moveTo></w:p>"
        f"<w:p><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        f"<w:moveFrom>{RUN.format('gone')}</w:moveFrom><w:r><w:rPr><w:vanish/></w:rPr>"
        f"<w:t>unseen</w:t></w:r></w:p>"
    )
    data = within_word(
        body,
        footnotes=f'<w:footnote w:id="2">{PARAGRAPH.format("Every 18 months.")}</w:footnote>',
        endnotes=f'<w:endnote w:id="3">{PARAGRAPH.format("See HR.")}</w:endnote>',
    )
    reading = read("a.docx", data)
    assert reading.documents[0].text.split("\n\n") == [
        *("Check it.[^2]", "Warning:", "hot.", "[^2]: Every 18 months."),
        *("Valid until 1 May[^e3]", "[^e3]: See HR."),
        *("Warning:", "hot."),
        "Moved here.",
    ]
    assert reading.losses("a.docx") == "a.docx: left out hidden texts (1)"


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        ("<m:f><m:num>{a}{p}{b}</m:num><m:den>{x}</m:den></m:f>", "(a+b)/x"),
        ("<m:sSup><m:e>{x}</m:e><m:sup>{a}{p}{b}</m:sup></m:sSup>", "x^(a+b)"),
        ("<m:sSubSup><m:e>{x}</m:e><m:sub>{a}</m:sub><m:sup>{b}</m:sup></m:sSubSup>", "x_a^b"),
        ("<m:rad><m:radPr/><m:deg/><m:e>{x}{p}{a}</m:e></m:rad>", "√(x+a)"),
        ('<m:d><m:dPr><m:begChr m:val="["/></m:dPr><m:e>{x}</m:e><m:e>{a}</m:e></m:d>', "[x|a)"),
        (
            "<m:m><m:mr><m:e>{a}</m:e><m:e>{b}</m:e></m:mr><m:mr><m:e>{x}</m:e></m:mr></m:m>",
            "a, b; x",
        ),
        (
            '<m:nary><m:naryPr><m:chr m:val="∑"/></m:naryPr><m:sub>{a}</m:sub><m:sup>{b}</m:sup>'
            "<m:e>{x}</m:e></m:nary>",
            "∑_a^b x",
        ),
    ],
)
def test_docx_formulas_stand_in_the_line(formula: str, text: str) -> None:
    names = {name: f"<m:r><m:t>{name}</m:t></m:r>" for name in "abx"}
    made = formula.format(**names, p="<m:r><m:t>+</m:t></m:r>")
    body = f"<w:p>{RUN.format('It is ')}<m:oMath>{made}</m:oMath>{RUN.format('.')}</w:p>"
    assert only("a.docx", within_word(body)).text == f"It is {text}."


def test_docx_headers_and_footers_are_kept_once_and_page_numbers_not() -> None:
    document = docx.Document()
    document.add_paragraph("Text")
    section = document.sections[0]
    section.header.paragraphs[0].text = "Document HR-77"
    section.footer.paragraphs[0].text = "Internal"
    number = section.footer.add_paragraph("Page ")
    number._p.append(
        parse_xml(f'<w:fldSimple {nsdecls("w")} w:instr=" PAGE ">{RUN.format("1")}</w:fldSimple>')
    )
    document.add_section().header.is_linked_to_previous = False
    document.sections[1].header.paragraphs[0].text = "Document HR-77"
    text = only("a.docx", saved(document)).text
    assert text.split("\n\n") == ["Document HR-77", "Text", "Internal"]


def test_docx_cells_merged_downwards_are_said_in_each_row() -> None:
    document = docx.Document()
    table = document.add_table(rows=3, cols=2)
    for i, text in enumerate(("Region", "City", "North", "Oslo", "", "Bergen")):
        table.cell(i // 2, i % 2).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    assert only("a.docx", saved(document)).text.split("\n") == [
        *("Region | City", "North | Oslo", "North | Bergen"),
    ]


def with_big_entry(size: int) -> bytes:
    out = io.BytesIO(word())
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/bomb.xml", b"\0" * size)
    return out.getvalue()


def test_zip_bomb_is_refused() -> None:
    assert "inflates beyond all bounds" in refusal("a.docx", with_big_entry(64 * 2**20))


def test_zip_bomb_that_understates_its_size_is_refused() -> None:
    size = 64 * 2**20
    data = with_big_entry(size)
    honest, small = struct.pack("<L", size), struct.pack("<L", 10)
    assert data.count(honest) == 2  # the directory and the entry itself
    assert "damaged" in refusal("a.docx", data.replace(honest, small))


def test_unreadable_docx_is_refused() -> None:
    empty = zipfile.ZipFile(out := io.BytesIO(), "w")
    empty.close()
    for data in (b"", b"text", word()[:-100], out.getvalue()):
        assert "not a DOCX file, damaged, or locked" in refusal("a.docx", data)
    assert "holds no text" in refusal("a.docx", saved(docx.Document()))


def test_csv_with_text_gives_a_document_for_each_row() -> None:
    reading = read(
        "faq.csv",
        '\ufeffID,Title,text,as_of\n1,Hotels,190.,2026\n,,"Two\nlines",\n'.encode(),
    )
    assert reading.problems == []
    assert reading.documents == [
        Document("1", "Hotels", "190.", {"as_of": "2026"}),
        Document("faq#2", "faq#2", "Two\nlines", {}),
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv_without_text_gives_lines(delimiter: str) -> None:
    data = "city,limit\nRome,190\n\nOslo,\n".replace(",", delimiter).encode()
    reading = read("limits.csv", data)
    assert reading.documents == [
        Document("limits#1", "limits#1", "city: Rome\nlimit: 190", {}),
        Document("limits#3", "limits#3", "city: Oslo", {}),
    ]


def test_csv_rows_that_cannot_be_read_are_problems() -> None:
    rows = ["id,text", "1,One", "2", "3,Three,more", "4,Four,,", "5,", "6,Six"]
    reading = read("faq.csv", "\n".join(rows).encode())
    assert [document.id for document in reading.documents] == ["1", "4", "6"]
    assert [problem.split(":")[0] for problem in reading.problems] == [
        f"faq.csv, line {number}" for number in (3, 4, 6)
    ]
    assert "1 cells under 2 columns" in reading.problems[0]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('3,"open', "a quote is opened and never closed"),
        ('3,"open\n4,"closed"', "not valid CSV"),
        ('3,"a" b', "not valid CSV"),
        (f"3,{'x' * 200_000}", "field larger than field limit"),
        (f'3,"{"x" * 70_000}\n{"x" * 70_000}"', "field larger than field limit"),
    ],
)
def test_csv_ends_where_the_next_row_cannot_be_told(row: str, reason: str) -> None:
    reading = read("faq.csv", f'id,text\n1,"One\ntwo"\n2,Two\n{row}\n5,Five\n6,Six\n'.encode())
    assert [document.id for document in reading.documents] == ["1", "2"]
    (problem,) = reading.problems
    assert problem.startswith("faq.csv, line 5: ")
    assert reason in problem
    assert "nothing from here on is read" in problem


@pytest.mark.parametrize("first", ["sep=;", '"sep=;"', "SEP=;\r", "sep=\t", "sep=|"])
def test_csv_may_name_its_separator(first: str) -> None:
    sign = first.strip('"\r')[-1]
    lines = f"{first}\nid;text\n1;one, two\n2\n".replace(";", sign)
    reading = read("a.csv", lines.encode())
    assert [document.text for document in reading.documents] == ["one, two"]
    assert reading.problems == ["a.csv, line 4: 1 cells under 2 columns"]


def test_csv_columns_without_a_name_keep_their_cells() -> None:
    reading = read("a.csv", b",city,limit,,\n0,Rome,190,,\n1,Oslo,210,north,\n")
    assert [document.text for document in reading.documents] == [
        "column 1: 0\ncity: Rome\nlimit: 190",
        "column 1: 1\ncity: Oslo\nlimit: 210\ncolumn 4: north",
    ]
    assert reading.problems == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "holds no text"),
        (b"id,text\n", "holds no text"),
        (b"id,text\n1\n", "line 2: 1 cells under 2 columns"),
        (b"id,id\n1,2\n", "line 1 must name the columns"),
        (b",\n1,2\n", "line 1 must name the columns"),
        (b"sep=;\nid;id\n1;2\n", "line 2 must name the columns"),
        (b"caf\xe9\n1\n", "not UTF-8"),
    ],
)
def test_unreadable_csv_is_refused(content: bytes, reason: str) -> None:
    assert reason in refusal("faq.csv", content)


def test_jsonl_goes_on_after_a_bad_line() -> None:
    good = {"id": "a", "title": "A", "text": "One\u2028two", "metadata": {"n": 1, "x": None}}
    bad = ["{", "[1]", '{"id": "b"}', '{"id": 1, "text": "x"}', '{"id": "b", "txt": "x"}']
    bad += ['{"id": "b", "text": "x", "metadata": {"a": []}}', "[" * 100_000, "9" * 5000]
    last = '{"id": "z", "text": "half a pair: \\ud800"}'
    lines = [json.dumps(good, ensure_ascii=False), *bad, "", last]
    reading = read("faq.jsonl", "\n".join(lines).encode())
    assert reading.documents == [
        Document("a", "A", "One\u2028two", {"n": 1}),
        Document("z", "z", "half a pair: ?", {}),
    ]
    assert [problem.split(":")[0] for problem in reading.problems] == [
        f"faq.jsonl, line {number}" for number in range(2, 2 + len(bad))
    ]


def test_jsonl_without_a_good_line_is_refused() -> None:
    assert "line 1: not valid JSON" in refusal("faq.jsonl", b"{\n[]\n")
    assert "holds no text" in refusal("faq.jsonl", b"\n")


def test_metadata_keeps_numbers_that_fit() -> None:
    kept = {"i": 1, "f": 0.5, "b": True, "s": "x"}
    given = kept | {"empty": " ", "big": 2**70, "nan": float("nan")}
    row = {"id": "a", "text": "x", "metadata": given}
    assert only("a.jsonl", json.dumps(row)).metadata == kept | {"big": str(2**70), "nan": "nan"}


@pytest.mark.parametrize("specimen", extraction.made(), ids=lambda each: each.what)
def test_what_is_peculiar_about_a_file_survives(
    specimen: extraction.Specimen, tmp_path: Path
) -> None:
    """Also what other libraries lose: `python -m loadtest.extraction` sets them side by side."""
    (path := tmp_path / specimen.name).write_bytes(specimen.data)
    assert specimen.kept(extraction.ours([path])[0])


def check(name: str, data: bytes) -> None:
    """A reading that every store takes, or the one error there is."""
    try:
        reading = read(name, data)
    except UnprocessableDocument:
        return
    assert reading.documents
    for document in reading.documents:
        assert document.text.strip()
        assert "\0" not in json.dumps([document.id, document.title], ensure_ascii=False)
        for text in (document.id, document.title, document.text, str(document.metadata)):
            text.encode()


_FRAGMENTS = (
    *(b"---\n", b"\n---\n", b"title: ", b"&a ", b"*a", b"!!int ", b'"', b",", b";", b"\n"),
    *(b"id,text\n", b'{"id":"a","text":"b"}', b"\\ud800", b"\\u0000", b"\xff\xfe", b"\0", b"\r"),
    *(b"<p>", b"</p>", b"<table><td>", b"<![CDATA[", b"<!", b"<pre>", b"&#0;", b"&#xd800;"),
    *(b"~~~", b"sep=;\n", b"\xe9", b"<br>", b"<article>", b"<header>", b"<p hidden>", b"===\n"),
    *(b'<meta charset="rot13">', b'<meta charset="utf-7">', b"<title>", b"<h1>", b"<li>"),
)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(data=st.binary(max_size=200) | st.lists(st.sampled_from(_FRAGMENTS)).map(b"".join))
def test_any_bytes_are_read_or_refused(suffix: str, data: bytes) -> None:
    check(f"a{suffix}", data)


@given(place=st.floats(0, 1), patch=st.binary(max_size=8))
def test_damaged_pdf_is_read_or_refused(place: float, patch: bytes) -> None:
    data = bytearray(pdf("Hello", "World"))
    start = int(place * len(data))
    data[start : start + len(patch)] = patch
    check("a.pdf", bytes(data))


@given(place=st.floats(0, 1), patch=st.binary(max_size=8))
def test_damaged_docx_is_read_or_refused(place: float, patch: bytes) -> None:
    data = bytearray(word())
    start = int(place * len(data))
    data[start : start + len(patch)] = patch
    check("a.docx", bytes(data))
