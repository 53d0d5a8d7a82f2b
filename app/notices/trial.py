"""Tries the rules on their own examples, when the app starts: a rule that was changed and does not work is not found out by a reader."""

from functools import cache

from app.errors import ConfigError
from app.notices.safety import Kind, Name, find, read

# The kind of notice, or its name, that the rules of each file lead to.
FILES: dict[str, Kind | Name] = {
    "emergency": "emergency",
    "clinician": "emergency",
    "overdose": "overdose",
    "self_harm": "self_harm",
    "method": "self_harm",
    "dosing": "dosing",
}
EACH = 5  # examples and counter-examples that a rule has at least


@cache
def try_rules() -> None:
    """Reads every rule and tries it, once.

    Raises:
        ConfigError: A rule lacks examples, misses one, or gives a counter-example a notice.
    """
    for file, kind in FILES.items():
        for rule in read(file):
            where = f"The rule {rule['name']!r} in app/notices/rules/{file}.yaml"
            for key, wanted in (("examples", True), ("counter_examples", False)):
                texts = rule.get(key) or []
                if len(texts) < EACH:
                    raise ConfigError(f"{where} has {len(texts)} {key}; it needs at least {EACH}. Write more of them.")
                for text in texts:
                    if any(kind in (finding.kind, finding.name) for finding in find(text)) != wanted:
                        what = "gives no notice to its example" if wanted else "gives a notice to its counter-example"
                        raise ConfigError(f"{where} {what} {text!r}. Change its patterns, or the example if it is none.")
