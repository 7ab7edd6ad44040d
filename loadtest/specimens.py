"""Files of one peculiarity each, made here: what a reader must not lose."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import docx
from docx.opc.packuri import PackURI
from docx.opc.part import Part
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls
from pypdf import PdfReader, PdfWriter
from pypdf.generic import ArrayObject, DictionaryObject, NameObject, TextStringObject

RUN = "<w:r><w:t>{}</w:t></w:r>"
PARAGRAPH = f"<w:p>{RUN}</w:p>"


def pdf(*pages: str) -> bytes:
    """A PDF with a page for each text, written by hand."""
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(pages)} >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for i, text in enumerate(pages):
        content = f"BT /F1 12 Tf ({text}) Tj ET"
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {5 + 2 * i} 0 R >>",
            f"<< /Length {len(content)} >>\nstream\n{content}\nendstream",
        ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{body}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    return (
        out
        + (
            f"xref\n0 {size}\n0000000000 65535 f \n{table}"
            f"trailer\n<< /Size {size} /Root 1 0 R >>\nstartxref\n{len(out)}\n%%EOF\n"
        ).encode()
    )


def rewritten_pdf(change: Callable[[PdfWriter], None]) -> bytes:
    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(pdf("Hello"))))
    change(writer)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def form(writer: PdfWriter) -> None:
    """Fields as programs fill them in, one of them within another."""

    def field(**values: Any) -> DictionaryObject:
        made = DictionaryObject({NameObject(f"/{key}"): value for key, value in values.items()})
        made[NameObject("/Subtype")] = NameObject("/Widget")
        return made

    name, text = TextStringObject, NameObject("/Tx")
    parent = field(T=name("applicant"), FT=text, V=name("Ann O'Neil"))
    kid = field(Parent=writer._add_object(parent))
    fields = [
        writer._add_object(kid),
        field(T=name("iban"), TU=name("Account number"), FT=text, V=name("NO93 8601")),
        field(T=name("empty"), FT=text, V=name("")),
        field(T=name("agreed"), FT=NameObject("/Btn"), V=NameObject("/Yes"), AS=NameObject("/Yes")),
        field(T=name("refused"), FT=NameObject("/Btn"), V=NameObject("/Off")),
        field(T=name("days"), FT=NameObject("/Ch"), V=ArrayObject([name("Mon"), name("Tue")])),
        DictionaryObject(
            {NameObject("/Subtype"): NameObject("/Text"), NameObject("/Contents"): name("a note")}
        ),
    ]
    writer.pages[0][NameObject("/Annots")] = ArrayObject(fields)


def saved(document: docx.document.Document) -> bytes:
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def within_word(body: str, **parts: str) -> bytes:
    """A DOCX with a body of its own; `footnotes` and the like become parts of it."""
    document = docx.Document()
    names = nsdecls("w", "r", "wp", "a") + (
        ' xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006"'
        ' xmlns:wps="http://schemas.microsoft.com/office/word/2010/wordprocessingShape"'
        ' xmlns:v="urn:schemas-microsoft-com:vml"'
        ' xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    )
    for kind, content in parts.items():
        blob = f"<w:{kind} {names}>{content}</w:{kind}>".encode()
        uri = PackURI(f"/word/{kind}.xml")
        part = Part(uri, f"application/vnd.ms-word.{kind}+xml", blob, document.part.package)
        document.part.relate_to(part, f"http://schemas/relationships/{kind}")
    for element in parse_xml(f"<w:body {names}>{body}</w:body>"):
        document.element.body.insert(len(document.element.body) - 1, element)
    return saved(document)


def with_header() -> bytes:
    """A DOCX whose pages have a header."""
    document = docx.Document()
    document.add_paragraph("Text")
    document.sections[0].header.paragraphs[0].text = "TOUCAN"
    return saved(document)
