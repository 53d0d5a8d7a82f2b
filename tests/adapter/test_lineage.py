"""Which bases come from Meta's Llama: by licence and descent, and not by a word in a name."""

from pathlib import Path

import pytest

from app.adapter.lineage import is_llama

CARD = "---\nlicense: {}\n{}---\n# A model\n"
LICENCE = "LLAMA 9.1 COMMUNITY LICENSE AGREEMENT\nLlama 9.1 Version Release Date: some day\n"


@pytest.mark.parametrize(
    ("name", "llama"),
    [
        ("meta-llama/Llama-3.2-3B-Instruct", True),
        ("unsloth/Llama-3.2-3B-Instruct-bnb-4bit", True),
        ("somebody/Medic-2-Llama-3.1-8B", True),
        ("Meta-Llama-3-8B", True),
        ("codellama/CodeLlama-7b-hf", True),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", False),
        ("openlm-research/open_llama_3b_v2", False),
        ("somebody/llama-shaped", False),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", False),
        ("base", False),
    ],
)
def test_where_nothing_is_stated_an_owner_or_a_version_in_the_name_decides(name: str, llama: bool, tmp_path: Path) -> None:
    assert is_llama(name) is llama
    assert is_llama(name, tmp_path) is llama
    assert is_llama(name, licence="other") is llama


@pytest.mark.parametrize(
    ("files", "llama"),
    [
        ({"README.md": CARD.format("llama3.2", "")}, True),
        ({"README.md": CARD.format("other", "license_name: llama4\n")}, True),
        ({"README.md": CARD.format("mit", "base_model: meta-llama/Llama-3.1-8B\n")}, True),
        ({"README.md": CARD.format("mit", "base_model:\n- somebody/x\n- somebody/y-llama-3-8b\n")}, True),
        ({"LICENSE.txt": LICENCE}, True),
        ({"README.md": CARD.format("apache-2.0", "tags: [llama]\n")}, False),
        ({"README.md": CARD.format("apache-2.0", "base_model: TinyLlama/TinyLlama-1.1B\n"), "LICENSE": "Apache License"}, False),
        ({"README.md": "---\n: broken: [\n---\n"}, False),
        ({"README.md": "no card"}, False),
    ],
)
def test_a_folder_says_by_its_card_and_its_licence(files: dict[str, str], llama: bool, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert is_llama("models/mine", tmp_path) is llama


def test_a_stated_licence_counts_more_than_a_version_in_the_name(tmp_path: Path) -> None:
    assert is_llama("somebody/llama-3-shaped", licence="apache-2.0") is False
    assert is_llama("somebody/anything", licence="llama3.3") is True
    assert is_llama("somebody/anything", licence="mit", made_from=["meta-llama/Llama-3.2-1B"]) is True


def test_the_real_licence_is_known(real_data: Path) -> None:
    assert is_llama("mine", real_data / "llama3-tokenizer")
