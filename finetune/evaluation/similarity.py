"""How near an answer is to its reference in meaning, by models that were trained for that: sentence embeddings and BERTScore.

Both models are the user's choice, a hub id or a folder. Knows nothing of the model under test.
"""

from dataclasses import dataclass
from pathlib import Path

from app.adapter.base import weights_hash
from app.adapter.hub import fetch
from app.engine.model import default_device
from app.errors import UserError

MODEL_FILES = ["*.json", "*.txt", "*.safetensors", "*.model", "1_Pooling/*"]


@dataclass(frozen=True)
class Judge:
    """A model that judges answers.

    Attributes:
        name: As it was asked for; of a folder, its last part.
        revision: Hub commit, or a hash of the folder's weights.
        folder: Where its files lie.
    """

    name: str
    revision: str
    folder: Path


def find_judge(name: str) -> Judge:
    """Finds a model in a folder or fetches it from the Hub.

    Raises:
        UserError: It is not there, the Hub did not answer, or the folder holds no model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file() or not list(folder.glob("*.safetensors")):
            raise UserError(f"The folder {folder.name} holds no model: it lacks config.json or safetensors.")
        return Judge(folder.name, weights_hash(folder), folder)
    if name.count("/") != 1:
        raise UserError(f"There is no model folder {name}. Give a folder, or OWNER/NAME of a Hub repository.")
    fetched = fetch(name, None, MODEL_FILES)
    return Judge(name, fetched.name, fetched)


def _filled(pairs: list[tuple[str, str]]) -> list[int]:
    """Places where both texts have words; the libraries break on empty ones, which score 0."""
    return [i for i, (prediction, reference) in enumerate(pairs) if prediction.strip() and reference.strip()]


def embedding_cosine(pairs: list[tuple[str, str]], judge: Judge) -> list[float]:
    """Cosine between the sentence embeddings of each prediction and its reference, -1 to 1; 0 where either is empty.

    Reimers and Gurevych 2019, https://arxiv.org/abs/1908.10084.
    """
    from sentence_transformers import SentenceTransformer

    places = _filled(pairs)
    scores = [0.0] * len(pairs)
    if not places:
        return scores
    model = SentenceTransformer(str(judge.folder), device=default_device(), trust_remote_code=False)
    ours, theirs = (
        model.encode([pairs[i][side] for i in places], batch_size=64, normalize_embeddings=True, show_progress_bar=False) for side in (0, 1)
    )
    for place, ours_row, theirs_row in zip(places, ours, theirs, strict=True):
        scores[place] = float(ours_row @ theirs_row)
    return scores


def bert_score(pairs: list[tuple[str, str]], judge: Judge) -> list[float]:
    """BERTScore F1 of each prediction against its reference, not rescaled; 0 where either is empty.

    Zhang et al. 2020, https://arxiv.org/abs/1904.09675. The layer is the one that its authors chose for the model, the last where they
    chose none.
    """
    from bert_score import BERTScorer
    from bert_score.utils import model2layers
    from transformers import AutoConfig

    places = _filled(pairs)
    scores = [0.0] * len(pairs)
    if not places:
        return scores
    config = AutoConfig.from_pretrained(judge.folder, trust_remote_code=False)
    scorer = BERTScorer(
        model_type=str(judge.folder), num_layers=model2layers.get(judge.name, config.num_hidden_layers), device=default_device()
    )
    # Where a tokenizer states no length, transformers puts a number that overflows in the library.
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, config.max_position_embeddings)
    _, _, f1 = scorer.score([pairs[i][0] for i in places], [pairs[i][1] for i in places], batch_size=64)
    for place, score in zip(places, f1.tolist(), strict=True):
        scores[place] = float(score)
    return scores
