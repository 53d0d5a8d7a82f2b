"""Tries the rules on their own examples, when the app starts: a rule that was changed and does not work is not found out by a reader."""

from functools import cache
from typing import Any

from app.errors import ConfigError
from app.notices.safety import Kind, Name, find, idioms, read

# The kind of notice, or its name, that the rules of each file lead to; an idiom leads to none.
FILES: dict[str, Kind | Name | None] = {
    "emergency": "emergency",
    "clinician": "emergency",
    "overdose": "overdose",
    "self_harm": "self_harm",
    "method": "self_harm",
    "dosing": "dosing",
    "idioms": None,
}
EACH = 5  # examples and counter-examples that a rule has at least


@cache
def try_rules() -> None:
    """Reads every rule and tries it, once.

    Raises:
        ConfigError: A rule lacks examples, misses one, or takes a counter-example for its own.
    """
    for file, kind in FILES.items():
        for rule in read(file):
            where = f"The rule {rule['name']!r} in app/notices/rules/{file}.yaml"
            for key, wanted in (("examples", True), ("counter_examples", False)):
                texts = rule.get(key) or []
                if len(texts) < EACH:
                    raise ConfigError(f"{where} has {len(texts)} {key}; it needs at least {EACH}. Write more of them.")
                for text in texts:
                    if _works(rule, kind, text) != wanted:
                        raise ConfigError(
                            f"{where} {'misses its example' if wanted else 'takes in its counter-example'} {text!r}. "
                            "Change its patterns, or the text if that is wrong."
                        )


def _works(rule: dict[str, Any], kind: Kind | Name | None, text: str) -> bool:
    """Whether a text gets the notice of a rule's file or, for an idiom, none because of it."""
    findings = find(text)
    if kind is None:
        return not findings and rule["name"] in idioms(text)
    return any(kind in (finding.kind, finding.name) for finding in findings)
