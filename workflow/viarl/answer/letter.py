"""Which option a reply names. It decides accuracy, the filter and the reward: in doubt it is none.

The places are those that public harnesses look at (lmms-eval's mcq_extract ranks letters by them), with more care: an
article is no option, an option that is ruled out is not chosen, and a reply that names two names none.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from viarl.items import LETTERS

Texts = Mapping[str, str]  # the options' texts by letter, but for those that are a letter themselves

_THOUGHT = r"[<◁]{}think(?:ing)?[>▷]"
_MACRO = re.compile(r"\\(?:text|math)\w*\s*\{([^{}]*)\}")  # \text{B}
_BOXED = re.compile(r"boxed\s*\{+([^{}]*)")
_TAG = re.compile(r"<\|\w+\|>|</?(?![A-Z]>)[A-Za-z][\w-]*(?:\s[^<>]*=[^<>]*)?/?>")  # <|im_end|>, </b>; not <B>
_MARKS = {ord(mark): "" for mark in '*_`$#\\"“”„«»「」『』【】'}
_MARKS |= {0x2018: "'", 0x2019: "'", 0x2013: "-", 0x2014: "-", ord("→"): ":", ord("。"): ". ", ord("、"): ", "}

# A letter that stands alone, in brackets or not: it is no part of a word, of "X-ray" or of "e.g."
_ALONE = (
    r"[(\[{<]{0,3}(?<![A-Za-z0-9'])(?<![A-Za-z]-)([A-Za-z])"
    r"(?![A-Za-z0-9']|-[A-Za-z]|\+(?! ?[A-Z])|\.[A-Za-z](?![A-Za-z]))[)\]}>]*"
)
# "A" and "I" before a word are an article and a pronoun, unless it is one that neither stands before.
_FREE = (
    r"and|are|as|at|based|because|but|does|due|for|from|has|in|is|maybe|on|or|since|so|that|then|to|was|were|which|with"
)
_X = rf"{_ALONE}(?!(?<=[AaIi]) (?!(?:{_FREE}|[A-J])\b)[A-Za-z0-9])"
_THOSE = r"(?i:options? )?\(?\b[A-J]\b\)?(?:(?:, ?(?:and |or )?|[/-]| (?:and|or|nor|&) )\(?[A-J]\b\)?){0,9}"

_IS = r"(?: (?:is|was|would be|must be|should be|will be|seems to be|appears to be)\b|(?= ?[:=>(\[\n-]))"
_ANSWER = (
    r"(?i:(?:(?:the|my|best|correct|right|final|most|likely) ){0,9}"
    rf"(?:\banswers?(?: (?:option|choice))?\b(?: (?:to|for) [^.?!:\n]{{0,120}}?)?{_IS}"
    rf"|(?:best|correct|right|final|chosen|my) (?:option|choice|letter)\b{_IS}|\bchoice is\b)"
    r"|\bI(?:'d|'ll| would| will)? (?:choose|select|pick|go with)\b|答案|正解|选择?(?!项)|答え|정답|답)"
    r"\s*[是为は은는]?\s*[:=>-]{0,9}\s*"
)
_FILLER = r"(?i:(?:the|most|likely|clearly|probably|therefore|option|choice|letter|either|both)\b[ :,]{0,9}){0,9}"
_NOT_CHOSEN = re.compile(
    # "not B", "rather than A or B"
    r"(?:\b(?i:not|cannot|neither|nor|none of|than|over|instead of|unlike|except|rul\w+ out|eliminat\w+|exclud\w+)"
    r"|n't) "
    rf"(?:(?:be|the|answer|choice|is|both|either) ){{0,9}}{_THOSE}"
    # "if the answer is A", "I thought A"
    r"|(?:\b(?i:if|whether|unless|thought|wrong|incorrect|other)|(?:\bnot|n't) think) (?:that )?(?:it (?:is|was) )?"
    rf"(?:{_ANSWER})?{_FILLER}{_THOSE}"
    # "B is wrong", "A and C are not seen", "(A) cannot be it"
    r"|(?!I )(?:\(?\b[A-J]\b[).:]*(?= (?:is|was|does|did|has|can|could|would))"
    rf"|{_THOSE}(?= (?:are|were|do|did|have|can|could)))"
    r" (?:cannot|[a-z]+(?:n't| (?:(?:be|clearly|also|both|all|obviously|just|the) )*"
    r"(?:not|never|wrong|incorrect|false|unlikely|impossible|excluded|eliminated|ruled out)\b))"
)
_LETTER, _STATED, _FILLERS = re.compile(_X), re.compile(_ANSWER), re.compile(_FILLER)
_ANOTHER = re.compile(  # "or C", ", C", "/ C"; not ", C shows a bike"
    r"[)\]}>]*(?: ?[,/&+;>-]{1,2} ?| )(?:(?:and|or|nor|to|through) )?(?:(?:maybe|perhaps|option) )?"
    rf"{_X}(?!,? (?!as\b)[a-z]*s\b)|[)\]}}>]*[.:] ?{_X}\W*$",
    re.IGNORECASE,
)
_ITEM = re.compile(rf"\W*?(?:(?:answer|option|choice|letter) )?{_X}(?:(?<=[)\]}}>])|[.:]|\W*$)", re.IGNORECASE)
_REASONED = re.compile(rf"\W*?{_X}(?: ?[,;(-]| (?:because|since|as|due)\b)")
_REMARKS = re.compile(r"\W*A[).:]+ *(\w[^\n]*?)[.;,\n]\W*?B[).:]+ *", re.IGNORECASE)
_LISTED = re.compile(r"\W*A\W*\nB\W*(?:\n|$)", re.IGNORECASE)
_IS_RIGHT = re.compile(
    rf"{_X} (?:is|was|must be|looks|seems) (?:correct|right|true|the (?:\w+ )?(?:answer|option|choice|match))\b"
)
_CONCLUSION = re.compile(
    r"(?:\b(?:so|thus|therefore|hence|it is|it's|must be|option|choice|conclu\w+|likely|say)\b|"
    r"(?<!\b[A-J])(?<!\b[A-J] )(?<!\b[A-J]-)(?<!\b[A-J] -)[:=>])[ ,:]{0,9}"  # not the C of "A -> B -> C"
    rf"(?:(?:the|option|it is|it's)\b ?){{0,9}}{_X}(?:\W*$|,? (?:because|since|as)\b)",
    re.IGNORECASE,
)


def extract_letter(reply: str, options: Sequence[str]) -> str:
    """Return the letter of the option that a reply names, "" if none or several remain possible.

    Thoughts do not count, also where the prompt opened them; open ones never end in an answer. Of the rest the last
    <answer> or else the last box counts, where there is one. Then the first that says something decides:

    1. The whole reply is an option's text.
    2. An explicit answer, the last of them: "The answer is B", "Answer: (B)", "the correct option is the red car".
    3. The letter that opens the reply: "B", "(b)", "B. The car", "B, because A is wrong".
    4. A conclusion: "B is correct", a last line that is a letter, "…, so B".
    5. The one letter that stands alone anywhere.
    6. The one option whose text occurs.

    What is ruled out ("not A", "A is wrong", "if A") counts nowhere, nor does a copy of the options. "A or B" and a
    letter beyond the options decide too: for none.
    """
    if not options:
        return ""
    own = {letter: _line(_plain(option)) for letter, option in zip(LETTERS, options, strict=False)}
    texts = {letter: text for letter, text in own.items() if text and not re.fullmatch("[A-Za-z]", text)}
    said = _plain(_answer(reply))
    if letter := _equal(_line(said), texts):
        return letter
    copy = r"\W*".join(rf"\(?\b{letter}\b[).:]*\s*{re.escape(text)}" for letter, text in own.items())
    left = re.sub(" +", " ", _NOT_CHOSEN.sub(" ", re.sub(copy, " ", said))).strip()
    for read in (_stated, _opening, _concluded, _alone):
        named = read(left, texts)
        if named is not None and (named != "I" or named in own):
            return named if named in own else ""
    return _occurring(_line(said), texts)


def _answer(reply: str) -> str:
    """Return the part of a reply that is meant as the answer."""
    opened, closed = _THOUGHT.format(""), _THOUGHT.format("/")
    text = re.sub(f"{opened}.*?{closed}", " ", reply, flags=re.DOTALL | re.IGNORECASE)
    text = re.split(opened, re.split(closed, text, flags=re.IGNORECASE)[-1], flags=re.IGNORECASE)[0]
    if blocks := re.findall(r"<answer>((?:(?!<answer>).)*?)(?:</answer>|$)", text, re.DOTALL | re.IGNORECASE):
        text = blocks[-1]
    text = _MACRO.sub(r"\1", _MACRO.sub(r"\1", text))
    return str((_BOXED.findall(text) or [text])[-1])


def _plain(text: str) -> str:
    """Return a text in ordinary characters (NFKC), without marks of emphasis, quotes, tags and empty lines."""
    text = _TAG.sub(" ", unicodedata.normalize("NFKC", text)).translate(_MARKS)
    text = re.sub(r"(?<![A-Za-z0-9])'|'(?![A-Za-z0-9])", "", text)
    return "\n".join(filter(None, (" ".join(line.split()) for line in text.splitlines())))


def _line(text: str) -> str:
    return text.replace("\n", " ").rstrip(". ")


def _begins(text: str, own: str) -> bool:
    return own != "" and re.match(rf"{re.escape(own)}(?!\w)", text, re.IGNORECASE) is not None


def _equal(text: str, texts: Texts) -> str:
    """Return the one option of this text; of those that differ in case only, the one that is written so."""
    alike = [letter for letter, own in texts.items() if own.casefold() == text.casefold()]
    exact = alike if len(alike) == 1 else [letter for letter in alike if texts[letter] == text]
    return exact[0] if len(exact) == 1 else ""


def _named(text: str, at: int, texts: Texts) -> str | None:
    """Return what is named at a place of a text, by text or letter: "" for several or no option, None for nothing."""
    rest = text[at:]
    if own := max((own for own in texts.values() if _begins(rest, own)), key=len, default=""):
        return "" if re.match(r",? (?:or|and)\b", rest[len(own) :]) else _equal(rest[: len(own)], texts)
    if re.match(r"(?:none|neither)\b", rest, re.IGNORECASE):
        return ""
    found = _LETTER.match(text, at)
    return found and ("" if _ANOTHER.match(text, found.end(1)) else found[1].upper())


def _stated(text: str, texts: Texts) -> str | None:
    for said in reversed([*_STATED.finditer(text)]):
        filler = _FILLERS.match(text, said.end())
        for end in (said.end(), filler.end() if filler else 0):
            if (letter := _named(text, end, texts)) is not None:
                return letter
    return None


def _item(line: str) -> str:
    """Return the letter that a line begins with as "A. …" or "(A) …", or that it consists of; "" for none."""
    found = _ITEM.match(line)
    return found[1].upper() if found else ""


def _opening(text: str, texts: Texts) -> str | None:
    first = text.partition("\n")[0]
    found = _ITEM.match(first) or _REASONED.match(first)
    if not found or _LISTED.match(text):
        return None
    if remarks := _REMARKS.match(text):  # on one option after the other, unless the first is chosen with its text
        chosen = _begins(remarks[1], texts.get("A", "")) and not _begins(text[remarks.end() :], texts.get("B", ""))
        if not chosen:
            return None
    return "" if _ANOTHER.match(first, found.end(1)) else found[1].upper()


def _concluded(text: str, texts: Texts) -> str | None:
    if right := _IS_RIGHT.findall(text):
        return str(right[-1]).upper()
    *before, last = text.split("\n")
    if before and (found := _ITEM.match(last)):
        letter, rest = found[1].upper(), last[found.end() :].strip()
        of_a_list = _item(before[-1]) == chr(ord(letter) - 1)
        if not of_a_list and (not rest or _begins(rest, texts.get(letter, ""))):
            return letter
    ending = _CONCLUSION.search(text)
    return ending[1].upper() if ending and ending[1] not in "ai" else None  # "so a" may have been cut off


def _alone(text: str, texts: Texts) -> str | None:
    items = {_item(line) for line in text.split("\n")}
    for own in sorted(texts.values(), key=len, reverse=True):  # the C of "vitamin C" is no option
        text = re.sub(rf"(?<!\w){re.escape(own)}(?!\w)", "xx", text, flags=re.IGNORECASE)
    found = {one[1].upper() for one in _LETTER.finditer(text) if one[1].isupper() or one[0][0] in "([{<"}
    named = (found | items) & {*LETTERS}
    return None if not named else named.pop() if len(named) == 1 else ""


def _occurring(text: str, texts: Texts) -> str:
    named = [own for own in texts.values() if re.search(rf"(?<!\w){re.escape(own)}(?!\w)", text, re.IGNORECASE)]
    # an option inside another that occurs ("cars" in "red cars") is not meant itself
    meant = [own for own in named if not any(_inside(own, other) for other in named)]
    if len(meant) > 1:  # they may differ in case only
        meant = [own for own in meant if own in text] if len({own.casefold() for own in meant}) == 1 else []
    return _equal(meant[0], texts) if len(meant) == 1 else ""


def _inside(own: str, other: str) -> bool:
    return len(other) > len(own) and own.casefold() in other.casefold()
