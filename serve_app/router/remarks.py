"""Remarks about a task, such as "this is a very hard problem": they say nothing of what is asked.

The encoder takes them for signs of hard work, so that they would buy the dearest road for "say hi".
The router reads a question without those that stand at its beginning or its end.
"""

from __future__ import annotations

import re

# A remark grades the task or says how to think, in words of these two lists alone.
_GRADING = frozenset(
    "hard harder complex complicated difficult tricky challenging demanding intricate advanced "
    "deep deeply carefully careful rigorous thorough thoroughly simple easy trivial genius expert "
    "phd reason reasoning think thinking thought step steps multistep level".split()
)
_BETWEEN = frozenset(
    "this it that these is are a an the and of to for with by in through about before you your we "
    "i me us lets please very extremely really quite rather incredibly highly truly super so too "
    "most more much all one ones problem problems question questions task tasks puzzle request "
    "exercise challenge warning note answer answering respond take takes time need needs require "
    "requires many multiple several multi part logical mathematical be give use only could can do "
    "as its itself world science best model intelligent smart".split()
)
_LONGEST = 160  # characters
_FIRST = re.compile(rf"[^.!?:\n]{{1,{_LONGEST}}}[.!:\n]\s*")
# After a stop, or where a capital letter begins what is usually said of a task.
_BEGINS = re.compile(r"[.!?]\s+|\n|\s(?=(?:This|It|That|Think|Reason|Please|Take|Be)\b)")
_WORD = re.compile(r"[^\W_]+")


def without_remarks(text: str) -> str:
    """The text without remarks at its two ends; the whole text where nothing would be left."""
    rest = text.strip()
    while (first := _FIRST.match(rest)) and _is_remark(first.group()):
        rest = rest[first.end() :]
    while (at := _last_start(rest)) and _is_remark(rest[at:]):
        rest = rest[:at].rstrip()
    return rest if _WORD.search(rest) else text


def _last_start(text: str) -> int:
    """Where the last sentence begins; 0 where there is but one, or it is long."""
    tail = text[-_LONGEST:].rstrip(".! ")
    begins = [match.end() for match in _BEGINS.finditer(tail)]
    return len(text) - len(text[-_LONGEST:]) + begins[-1] if begins else 0


def _is_remark(sentence: str) -> bool:
    words = set(_WORD.findall(sentence.lower().replace("'", "").replace("-", " ")))
    return bool(words & _GRADING) and words <= _GRADING | _BETWEEN
