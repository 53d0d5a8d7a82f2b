"""Measures by models of their own: the libraries' real code on a tiny model, and a plain row where there is none."""

from pathlib import Path

import pytest
import torch

from app.errors import UserError
from finetune.evaluation.answers import _judged
from finetune.evaluation.similarity import bert_score, embedding_cosine, find_judge
from tests.conftest import assert_is_for_people

PAIRS = [("chest pain", "chest pain"), ("chest pain", "give aspirin"), ("", "chest"), ("chest", " "), ("\n", "")]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of random weights, saved as a sentence-transformers model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("judge")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "chest", "pain", "give", "aspirin"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "max_position_embeddings": 32}
    BertModel(BertConfig(vocab_size=len(words), **size)).save_pretrained(folder / "bert")
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder / "bert")
    transformer = Transformer(str(folder / "bert"))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder / "judge"))
    return folder / "judge"


@pytest.mark.parametrize("score", [embedding_cosine, bert_score])
def test_equal_texts_score_1_empty_ones_0_and_order_is_kept(tiny: Path, score: object) -> None:
    scores = score(PAIRS, find_judge(str(tiny)))  # type: ignore[operator]
    assert scores[0] == pytest.approx(1, abs=1e-5)
    assert scores[1] < 0.999
    assert scores[2:] == [0, 0, 0]
    assert score([("", "")], find_judge(str(tiny))) == [0]  # type: ignore[operator]


def test_the_report_names_the_model_or_says_that_nothing_was_measured(tiny: Path) -> None:
    used: dict[str, dict[str, str]] = {}
    pairs = {"base": PAIRS[1:], "tuned": PAIRS[:-1]}
    rows = _judged(pairs, {"embedding_cosine": str(tiny), "bert_score": "nobody/nothing"}, used)
    assert rows["embedding_cosine"]["n"] == 4 and used["embedding_cosine"]["model"] == "judge"
    assert used["embedding_cosine"]["revision"].startswith("sha256:")
    assert "not_measured" in rows["bert_score"] and "bert_score" not in used


def test_a_model_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    for name in ("nowhere", "nobody/nothing", str(tmp_path)):
        with pytest.raises(UserError) as caught:
            find_judge(name)
        assert_is_for_people(caught.value)
