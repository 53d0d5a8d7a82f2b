"""The quantities of a text: numbers with their signs and units, and where one text contradicts another in them. Knows texts alone."""

import re
from dataclasses import dataclass

import regex

from app.notices.words import canonical_number, words

# Units that can be converted: what they measure, and how many of its smallest usual parts one of them is.
_PREFIXES = {"": 1.0, "k": 1e3, "d": 1e-1, "c": 1e-2, "m": 1e-3, "μ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15}
_KNOWN: dict[str, tuple[str, float]] = {
    prefix + unit: (unit, factor)
    for unit, prefixes in {"g": "kmμnp", "l": "dcmμnf", "mol": "mμnp", "m": "kcmμn", "eq": "m", "u": "km", "iu": "k"}.items()
    for prefix, factor in _PREFIXES.items()
    if not prefix or prefix in prefixes
}
_KNOWN |= {"%": ("%", 1), "‰": ("%", 0.1), "°c": ("°c", 1), "°f": ("°f", 1), "mmhg": ("mmhg", 1), "beat": ("beat", 1), "bpm": ("beat", 1)}
_KNOWN |= {"second": ("s", 1), "minute": ("s", 60), "hour": ("s", 3600), "day": ("s", 86400), "week": ("s", 7 * 86400)}
_KNOWN |= {name: (name, 1) for name in ("month", "year", "tablet", "dose", "kpa", "pa", "hz", "j", "kj", "kcal", "gy", "msv")}
_SPELLINGS = {
    "hr": "hour",
    "h": "hour",
    "min": "minute",
    "s": "second",
    "sec": "second",
    "d": "day",
    "litre": "l",
    "liter": "l",
    "unit": "u",
}
# Quantities of these are each a thing of its own: "8 hours" and "5 days" in two texts need not be about the same.
_TIMES = {"s"}

_SIGNS = {"at least": "≥", "no less than": "≥", "more than": ">", "over": ">", "above": ">", "greater than": ">"}
_SIGNS |= {"at most": "≤", "up to": "≤", "no more than": "≤", "less than": "<", "under": "<", "below": "<", "fewer than": "<"}
_SIGNS |= {">=": "≥", "<=": "≤"} | {sign: sign for sign in "<>≤≥"}
_SAYS = "|".join(sorted((re.escape(sign) for sign in _SIGNS), key=len, reverse=True))
_NUMBER = r"[-−]?\.?\d+(?:[.,·]\d+)*"
_QUANTITY = regex.compile(
    rf"(?:(?P<sign>{_SAYS})\s?)?(?<![\w.])(?P<first>{_NUMBER})(?:\s?(?:-|–|to)\s?(?P<last>{_NUMBER}))?[\s-]?"
    r"(?P<unit>%|‰|per\s?cent\b|[°º]\s?[CF]\b|mm Hg\b|℃|[\p{L}µ][\p{L}\p{M}]*(?:/\p{L}+\d?)*)?",
    regex.IGNORECASE,
)
# "β-blocker": a Greek letter is to its noun what a number is.
_GREEK = regex.compile(r"(?<!\w)(\p{Greek}|alpha|beta|gamma|delta|kappa|lambda)[\s-]?(\p{Latin}{3,})", regex.IGNORECASE)
# Words after a number that say nothing of what is counted.
_NO_NOUN = "of and or to in at on for from with by the a an is are was than as but per if when that which out"
_EMPTY = frozenset(_NO_NOUN.split())


@dataclass(frozen=True)
class Quantity:
    """A number with what stands around it, or a Greek letter before a noun.

    Attributes:
        text: As it is written.
        sign: One of < > ≤ ≥, or nothing.
        values: The number, or both ends of a range, in the unit as written; of a Greek letter its name.
        unit: The unit in one spelling; for want of one, the noun that is counted; else nothing.
        is_known: It is a unit of measurement.
    """

    text: str
    sign: str
    values: tuple[float | str, ...]
    unit: str
    is_known: bool

    @property
    def kind(self) -> str:
        """What is measured, "g" for all masses; the unit itself where it cannot be converted."""
        head, slash, rest = self.unit.partition("/")
        return _KNOWN[head][0] + slash + rest if self.is_known else self.unit

    @property
    def size(self) -> tuple[float | str, ...]:
        """The values in the unit of `kind`, rounded, so that "0.5 g" and "500 mg" are equal."""
        factor = _KNOWN[self.unit.partition("/")[0]][1] if self.is_known else 1.0
        return tuple(value if isinstance(value, str) else float(f"{value * factor:.6g}") for value in self.values)

    def agrees(self, other: "Quantity") -> bool:
        """Whether both say the same, as far as both say it."""
        return self.kind == other.kind and self.size == other.size and (self.sign == other.sign or not (self.sign and other.sign))


def _unit(text: str) -> tuple[str, bool]:
    parts = []
    for part in (text or "").split("/"):
        part = re.sub(r"\s", "", part).replace("º", "°").replace("℃", "°C")
        part = "".join(words(part)[:1]) if part else ""
        bare = part[:-1] if len(part) > 2 and part.endswith("s") and not part.endswith("ss") else part
        parts.append(_SPELLINGS.get(bare, bare))
    return "/".join(parts), parts[0] in _KNOWN


def quantities(text: str) -> list[Quantity]:
    """All quantities of a text, in order."""
    found = []
    for match in _QUANTITY.finditer(text):
        unit, is_known = _unit(match["unit"] or "")
        values = [canonical_number(value.replace("−", "-").replace("·", ".")) for value in (match["first"], match["last"]) if value]
        if any(re.fullmatch(r"-?\d+(?:\.\d+)?", value) is None for value in values):
            continue  # a date, a version
        written = match[0].strip()
        if not is_known and (unit in _EMPTY or (match["unit"] or "").isupper()):
            unit, written = "", written.removesuffix(match["unit"] or "").strip(" -")
        sign = _SIGNS[match["sign"].casefold()] if match["sign"] else ""
        found.append(Quantity(written, sign, tuple(map(float, values)), unit, is_known))
    for match in _GREEK.finditer(text):
        letter = "".join(words(match[1]))
        found.append(Quantity(match[0], "", (letter,), words(match[2])[0].removesuffix("s"), False))
    return found


def contradictions(answer: str, reference: str) -> list[tuple[str, str]]:
    """What an answer says otherwise than the reference: numbers of one unit or noun, units of one number, comparison signs, Greek letters.

    Only what both speak of is compared: what stands in one text alone contradicts nothing.

    Returns:
        Pairs of quantities as they are written, the answer's first.
    """
    ours, theirs = quantities(answer), quantities(reference)
    left = [q for q in ours if not any(q.agrees(other) for other in theirs)]
    right = [q for q in theirs if not any(q.agrees(other) for other in ours)]
    found = []
    for clash in (_same_unit, _same_number, _same_kind):
        for quantity in list(left):
            other = next((other for other in right if clash(quantity, other)), None)
            if other is not None:
                left.remove(quantity)
                right.remove(other)
                found.append((quantity.text, other.text))
    return found


def _same_unit(one: Quantity, other: Quantity) -> bool:
    return bool(one.unit) and one.unit == other.unit


def _same_number(one: Quantity, other: Quantity) -> bool:
    units = one.is_known and other.is_known and one.unit != other.unit and _are_alike(one, other)
    signs = bool(one.sign and other.sign) and one.sign != other.sign
    return one.values == other.values and (units or (signs and one.unit == other.unit))


def _are_alike(one: Quantity, other: Quantity) -> bool:
    """Whether two units may stand for one another by mistake: µg for g, weeks for days, mg/L for mmol/L; not years for mL/min."""
    (head, _, tail), (other_head, _, other_tail) = one.kind.partition("/"), other.kind.partition("/")
    return head == other_head or {head, other_head} <= {"s", "month", "year"} or (bool(tail) and tail == other_tail)


def _same_kind(one: Quantity, other: Quantity) -> bool:
    return one.is_known and one.kind == other.kind and one.kind.partition("/")[0] not in _TIMES
