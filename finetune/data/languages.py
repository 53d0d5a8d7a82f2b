"""Which languages texts are in, by a small model that comes with its library. Knows texts alone."""

import random
import unicodedata
from collections import Counter
from dataclasses import dataclass

SAMPLE = 1000  # texts to look at: each takes about a millisecond
SURE = 0.6  # probability from which a language counts
NOT_SURE = "not sure"
# Names of the languages that medical data sets come in; the others are shown by their codes.
_NAMES = {
    **{"en": "English", "de": "German", "fr": "French", "es": "Spanish", "pt": "Portuguese", "it": "Italian", "nl": "Dutch"},
    **{"ru": "Russian", "uk": "Ukrainian", "pl": "Polish", "cs": "Czech", "ro": "Romanian", "hu": "Hungarian", "el": "Greek"},
    **{"zh": "Chinese", "ja": "Japanese", "ko": "Korean", "th": "Thai", "vi": "Vietnamese", "id": "Indonesian", "tr": "Turkish"},
    **{"ar": "Arabic", "fa": "Persian", "ur": "Urdu", "he": "Hebrew", "hi": "Hindi", "bn": "Bengali", "ta": "Tamil", "sw": "Swahili"},
    **{"da": "Danish", "sv": "Swedish", "no": "Norwegian", "nb": "Norwegian", "fi": "Finnish", "la": "Latin", "ca": "Catalan"},
}


@dataclass(frozen=True)
class Languages:
    """What was found.

    Attributes:
        shares: Languages and their share of the texts, the most frequent first.
        of: Texts looked at.
        drawn: They were drawn from more.
    """

    shares: list[tuple[str, float]]
    of: int
    drawn: bool


def languages(texts: list[str], seed: int = 0) -> Languages:
    """The languages of texts, or of `SAMPLE` of them drawn by seed.

    Args:
        texts: Conversations.
        seed: Seed of the draw.
    """
    if not texts:
        return Languages([], 0, False)
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    chosen = random.Random(seed).sample(texts, SAMPLE) if len(texts) > SAMPLE else texts
    counts: Counter[str] = Counter()
    for text in chosen:
        code, probability = identifier.classify(unicodedata.normalize("NFC", text.encode("utf-8", "replace").decode()))
        counts[_NAMES.get(code, code) if probability >= SURE else NOT_SURE] += 1
    return Languages([(name, count / len(chosen)) for name, count in counts.most_common()], len(chosen), len(chosen) < len(texts))
