"""The base of an adapter: recognised by its weights wherever it lies, named without a path of any machine."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from app.__main__ import parser
from app.adapter import contract as contracts
from app.adapter.base import hub_name, is_hub_id, weight_files, weights_hash
from app.adapter.directory import prepare
from app.engine.model import load
from app.errors import AdapterError, ConfigError, ContractViolation, HubUnavailable, UserError
from app.settings import ROOT, load_settings
from tests.conftest import assert_is_for_people
from tests.engine.test_model import edit_json, name_base

BASE = ROOT / "assets" / "demo" / "base"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo base at a place that no contract names."""
    return Path(shutil.copytree(BASE, tmp_path / "models" / "Some-3B"))


@pytest.fixture
def elsewhere(adapter_copy: Path) -> Path:
    """An adapter whose base was a folder of another machine, which its contract names by the folder's name alone."""
    name_base("Some-3B")(adapter_copy)
    return adapter_copy


def in_shards(folder: Path) -> Path:
    """The same weights in two files and an index."""
    tensors = load_file(folder / "model.safetensors")
    half = len(tensors) // 2
    parts = {"model-00001-of-00002.safetensors": list(tensors)[:half], "model-00002-of-00002.safetensors": list(tensors)[half:]}
    for file, names in parts.items():
        save_file({name: tensors[name] for name in names}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, names in parts.items() for name in names}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def test_the_hash_of_a_single_file_is_what_contracts_state_already() -> None:
    digest = hashlib.sha256()
    for name in ("config.json", "model.safetensors"):
        digest.update(name.encode() + hashlib.sha256((BASE / name).read_bytes()).hexdigest().encode())
    contract = contracts.read(ROOT / "assets" / "demo" / "adapter")
    assert weights_hash(BASE) == "sha256:" + digest.hexdigest()[:16] == contract.base.revision == contract.base.weights


@pytest.mark.parametrize("sharded", [False, True])
def test_the_hash_covers_the_files_of_the_model_and_no_others(folder: Path, sharded: bool) -> None:
    if sharded:
        in_shards(folder)
    before = weights_hash(folder)
    (folder / "consolidated.safetensors").write_bytes(b"the same model in another program's form")
    (folder / "adapter_model.safetensors").write_bytes(b"somebody's adapter")
    assert weights_hash(folder) == before
    path = weight_files(folder)[-1]
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert weights_hash(folder) != before


DAMAGED = {
    "no JSON": lambda folder: (folder / "model.safetensors.index.json").write_text("{"),
    "no map": lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
    "bytes": lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"\xff\xfe"),
    "a shard that is not there": lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(),
    "a shard that is a folder": lambda folder: (
        (folder / "model-00002-of-00002.safetensors").unlink(),
        (folder / "model-00002-of-00002.safetensors").mkdir(),
    ),
    "a shard outside": lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../secret"}}'),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_base_is_told_in_a_sentence(folder: Path, elsewhere: Path, damage: str) -> None:
    DAMAGED[damage](in_shards(folder))
    with pytest.raises(AdapterError) as caught:
        load(str(elsewhere), "cpu", base=str(folder))
    assert_is_for_people(caught.value)


def test_a_folder_says_which_repository_it_is(tmp_path: Path, folder: Path) -> None:
    assert hub_name(folder) is None
    edit_json("config.json", _name_or_path="somebody/Some-3B")(folder)
    assert hub_name(folder) == "somebody/Some-3B"
    for path in ("/home/somebody/models", "../base", "./base", "a/b/c", "outputs/base", "C:\\models\\base", "", None, 7):
        edit_json("config.json", _name_or_path=path)(folder)
        assert hub_name(folder) is None and not is_hub_id(path)
    snapshot = tmp_path / "hub" / "models--some-body--Other-3B" / "snapshots" / ("0123456789" * 4)
    shutil.copytree(folder, snapshot)
    assert hub_name(snapshot) == "some-body/Other-3B"


def test_a_base_that_lies_elsewhere_opens_where_its_owner_says(elsewhere: Path, folder: Path) -> None:
    with pytest.raises(ContractViolation, match="Some-3B is not there.*--base") as caught:
        load(str(elsewhere), "cpu")
    assert_is_for_people(caught.value)
    opened = load(str(elsewhere), "cpu", base=str(folder))
    assert (opened.base, opened.base_revision) == ("Some-3B", weights_hash(BASE))
    assert str(folder.parent) not in opened.contract.model_dump_json()
    assert prepare(str(elsewhere), "cpu", str(folder)) == elsewhere.resolve()


def test_a_base_known_by_its_hub_id_opens_from_a_folder_and_without_the_hub(adapter_copy: Path, folder: Path) -> None:
    name_base("somebody/Some-3B")(adapter_copy)
    edit_json("prompt_contract.json", base__revision="0" * 40, base__weights_sha256=weights_hash(BASE))(adapter_copy)
    with pytest.raises(HubUnavailable):
        load(str(adapter_copy), "cpu")
    assert load(str(adapter_copy), "cpu", base=str(folder)).base == "somebody/Some-3B"


def test_another_base_than_the_trained_one_is_refused(elsewhere: Path, folder: Path) -> None:
    edit_json("config.json", rms_norm_eps=1e-4)(folder)
    with pytest.raises(ContractViolation, match="is not the one that was trained on, Some-3B.*--base") as caught:
        load(str(elsewhere), "cpu", base=str(folder))
    assert_is_for_people(caught.value)


def test_an_adapter_that_finds_its_own_base_does_not_need_the_folder_of_another(adapter_copy: Path, folder: Path) -> None:
    edit_json("config.json", rms_norm_eps=1e-4)(folder)
    assert load(str(adapter_copy), "cpu", base=str(folder)).base == "assets/demo/base"


@pytest.mark.parametrize("name", ["nowhere", "/nowhere/at/all", "somebody/Some-3B", "a\x00b", "x" * 5000, str(ROOT / "assets")])
def test_a_folder_without_a_base_is_refused(elsewhere: Path, name: str) -> None:
    with pytest.raises(UserError, match="no base model in the folder") as caught:
        load(str(elsewhere), "cpu", base=name)
    assert isinstance(caught.value, ConfigError)
    assert_is_for_people(caught.value)


def test_the_folder_is_a_setting_whose_name_no_other_program_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BASE", "/somewhere/else")
    assert load_settings().base_folder == ""
    monkeypatch.setenv("BASE_FOLDER", "/models/Some-3B")
    assert load_settings().base_folder == "/models/Some-3B"
    assert vars(parser().parse_args(["--base", "mine"]))["base_folder"] == "mine"
