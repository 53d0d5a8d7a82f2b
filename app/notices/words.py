"""The one way in which a text becomes words: for measures of answers, for near-duplicates, and for the nearest cards. Knows texts alone.

Letters, marks and digits of every script count. What a reader would call the same is the same: capitals, compatibility forms
(Unicode NFKC), digits of other scripts, Arabic and Persian forms of one letter, invisible signs. What medicine tells apart stays
apart: Greek letters, units, decimals, negative numbers, exponents, comparison signs, arrows, and charges such as the + of "HER2+".
Scripts that put no spaces between words give pairs of neighbouring characters, as Lucene's CJKBigramFilter does: good enough to see
what two texts share, and no dictionary is needed.
"""

import re
import unicodedata

import regex

# One pattern for all scripts, and the same in plain ASCII, which is ten times as fast. Runs of letters are looked at again below.
_PATTERN = r"""
    {letter}[{letters}{digits}]*
    |(?:(?<![{letters}{digits})\]%])(?<![{digits}]\s)[-–](?=\.?[{digits}]))?(?:(?<![{letters}{digits}])\.)?\d+(?:[.,]\d+)*(?:\^-?\d+)?
    |°\s?[cf](?![{letters}])
    |[<>≤≥=≠±≈×↑↓→←%‰°+♀♂]
    |(?<=[{letters}{digits}])-(?=$|[\s.,;:)/])
"""
_ASCII = re.compile(_PATTERN.format(letter="[a-z]", letters="a-z", digits="0-9"), re.VERBOSE)
_ANY = regex.compile(_PATTERN.format(letter=r"[\p{L}\p{M}]", letters=r"\p{L}\p{M}", digits=r"\p{N}") + r"|\p{N}", regex.VERBOSE)
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}々〆ー]"
_RUNS = regex.compile(rf"μ\p{{Latin}}+|(?P<unspaced>{_UNSPACED}+)|\p{{Greek}}[\p{{Greek}}\p{{M}}]*|(?:(?!{_UNSPACED}|\p{{Greek}}).)+")
_NAMES = "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi omega"
_GREEK = dict(zip("αβγδεζηθικλμνξοπρστυφχψω", _NAMES.split(), strict=True))
# Other ways to write one unit.
_SAME = {"mcg": "μg", "ug": "μg", "percent": "%"}
_FORMS = {"−": "-", "‐": "-", "‑": "-", "·": ".", "٫": ".", "٬": ",", "ي": "ی", "ى": "ی", "ك": "ک", "ـ": ""}
# The last two ranges are vowel signs of Arabic, which few people write.
_FORM = regex.compile("[" + "".join(_FORMS) + "\u064b-\u065f\u0670]")
_SUPERSCRIPT = regex.compile(r"(?<=\d)([⁺⁻]?[⁰¹²³⁴-⁹]+)")
_FRACTION = regex.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_INVISIBLE = regex.compile(r"\p{Cf}+")
_FOREIGN_DIGIT = regex.compile(r"(?V1)[\p{Nd}--[0-9]]")
_PER_CENT = re.compile(r"\bper cent\b")
_THOUSANDS = regex.compile(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?")
_EUROPEAN = regex.compile(r"\d{1,3}(?:\.\d{3})+,\d+|\d+,\d+")


def folded(text: str) -> str:
    """The text in the form in which it is compared; see the top of the file."""
    if not text.isascii():
        text = _SUPERSCRIPT.sub(lambda match: "^" + match[1], _FRACTION.sub(" ", text))
        text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text.replace("º", "°")))
        text = _FORM.sub(lambda match: _FORMS.get(match[0], ""), text)
        text = _FOREIGN_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0], match[0])), text)
    text = text.casefold().replace(">=", "≥").replace("<=", "≤")
    return _PER_CENT.sub("%", text) if "per cent" in text else text


def canonical_number(text: str) -> str:
    """A number without marks of thousands, with a decimal point, and without zeros that say nothing: "1,000.50" is "1000.5".

    "0,5" is read as a decimal, and "1,500" as a thousand and five hundred, as English writes them.
    """
    sign = "-" if text[0] in "-–" else ""
    digits, caret, exponent = text.lstrip("-–").partition("^")
    if _THOUSANDS.fullmatch(digits):
        digits = digits.replace(",", "")
    elif _EUROPEAN.fullmatch(digits):
        digits = digits.replace(".", "").replace(",", ".")
    whole, point, rest = digits.partition(".")
    if (whole + rest).isdecimal() or not whole:
        rest = rest.rstrip("0")
        digits = (whole.lstrip("0") or "0") + (point + rest if rest else "")
    return sign + digits + caret + exponent


def words(text: str) -> list[str]:
    """The words of a text in order."""
    text = folded(text)
    found: list[str] = []
    for token in (_ASCII if text.isascii() else _ANY).findall(text):
        if token.isascii():
            found.append(_SAME.get(token, token) if token.isalpha() else _number_or_sign(token))
        else:
            found += _split(token)
    return found


def _number_or_sign(token: str) -> str:
    return canonical_number(token) if token[0] in "-.0123456789" and len(token) > 1 else token


def _split(token: str) -> list[str]:
    """A run of letters as Greek letters, characters of scripts without spaces, and words of the others."""
    if not token[0].isalpha():
        return [_number_or_sign(token.replace("–", "-").replace(" ", ""))]
    found: list[str] = []
    for match in _RUNS.finditer(token):
        if match["unspaced"]:
            signs = regex.findall(r"\X", match[0])
            found += ["".join(pair) for pair in zip(signs, signs[1:], strict=False)] or signs
        else:
            found.append(_GREEK.get(match[0], match[0]))
    return found
