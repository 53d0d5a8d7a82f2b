"""Publishes an adapter directory on the Hub: checks it, writes its card, and uploads it in one commit.

    python -m finetune push --adapter outputs/mine --repo somebody/Llama-3.2-3B-medical

What is published was opened and verified a moment before, names a base that others can fetch, and holds nothing whose licence
forbids it. A token is used by `huggingface_hub` and never seen here.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

from app.adapter import contract as contracts
from app.adapter.base import find_base, is_hub_id, weight_files
from app.adapter.cards import CARDS_FILE
from app.adapter.contract import Contract
from app.adapter.directory import RUN_FILE, WEIGHTS_FILE, find_folder, is_adapter_directory
from app.adapter.hub import account, asking, check_names, fetch, parse, resolve_base
from app.adapter.lineage import is_llama
from app.engine.model import LoadedModel, default_device, load
from app.errors import AdapterError, AdapterNotFound, ConfigError, DataError, HubUnavailable
from finetune.data.licences import LICENCE_FILES, check_name, may_be_shipped, notice
from finetune.evaluation.gate import gate
from finetune.evaluation.report import shareable
from finetune.publishing.card import Card, render, rows_of
from finetune.publishing.channels import CHANNEL_SECONDS, check_channel, move, tags_of

log = logging.getLogger(__name__)

EVALUATION_FILE = "evaluation.json"
REPORT_FILE = "evaluation.html"
ADAPTER_CONFIG = "adapter_config.json"
# What is published of an adapter directory; notes, checkpoints and whatever else lies there stay at home.
SHIPPED = [
    WEIGHTS_FILE,
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    contracts.TEMPLATE_FILE,
]
ATTEMPTS = 4
WAIT_SECONDS = 1.0  # before the second attempt; doubled for each further one

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What `push` is asked for.

    Attributes:
        repo: OWNER/NAME.
        private: Make a new repository private.
        channel: The tag that is moved to the new commit.
        base_id: Hub id of the base, where the adapter names a folder.
        licence: Licence of the base, where its repository states none.
        allow_regression: Why an adapter that the gate refuses is published all the same.
        base: A folder with the base, where it does not lie where the contract says.
    """

    repo: str
    private: bool = False
    channel: str = "candidate"
    base_id: str | None = None
    licence: str | None = None
    allow_regression: str | None = None
    base: str = ""


@dataclass(frozen=True)
class Published:
    """A commit on the Hub and where to look at it."""

    commit: str
    url: str


def push(adapter: str, options: Options) -> Published:
    """Publishes an adapter directory in one commit and moves the channel to it.

    Raises:
        UserError: It cannot be published; the message says why and what to do.
    """
    check_channel(options.channel)
    if parse(options.repo) is None or "@" in options.repo:
        raise ConfigError(f"--repo {options.repo[:100]} is not of the form OWNER/NAME, as in somebody/Llama-3.2-3B-medical.")
    directory = find_folder(adapter)
    if directory is None or not is_adapter_directory(directory):
        raise AdapterNotFound(f"There is no adapter folder {adapter[:100]}. Give the folder that `python -m finetune train` wrote.")
    evaluation, run = _read_evaluation(directory), _read_json(directory / RUN_FILE)
    refused = gate(evaluation)
    if refused and not options.allow_regression:
        raise ConfigError(
            f"The adapter got worse and is not published: {'; '.join(refused)}. "
            'Train it better, or publish it all the same with --allow-regression "reason", which the card will show.'
        )
    user = account()
    loaded = load(adapter, base=options.base)
    _check_same_weights(evaluation, loaded)
    contract = _published_contract(loaded, directory, options)
    content = _content(directory, loaded, contract, run, evaluation, options, refused)
    repo = options.repo
    _retry(lambda: _create(repo, options.private, user), repo)
    _check_repository(repo, options.private)
    commit = _retry(lambda: _commit(repo, content, evaluation), repo)
    _retry(lambda: move(repo, options.channel, commit, tags_of(repo).get(options.channel)), repo)
    with asking(repo) as api:
        return Published(commit, f"{api.endpoint}/{repo}/tree/{commit}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise DataError(f"{path.name} is damaged ({type(error).__name__}). Write it anew with the command that made it.") from error


def _read_evaluation(directory: Path) -> dict[str, Any]:
    evaluation = _read_json(directory / EVALUATION_FILE)
    if not evaluation:
        raise ConfigError(
            f"{directory.name} has no {EVALUATION_FILE}, and nothing is published unmeasured. "
            f"Run `python -m finetune evaluate --adapter {directory.name}` first, with the folder's whole path."
        )
    return evaluation


def _check_same_weights(evaluation: dict[str, Any], loaded: LoadedModel) -> None:
    measured = evaluation.get("adapter_revision")
    if measured and measured != loaded.adapter_revision:
        raise ConfigError(
            f"{EVALUATION_FILE} belongs to other weights ({measured}) than those of the folder ({loaded.adapter_revision}). "
            "Run `python -m finetune evaluate` again."
        )


def _published_contract(loaded: LoadedModel, directory: Path, options: Options) -> Contract:
    """The contract with a base that everybody can fetch, pinned to a commit whose weights are those that were trained on."""
    contract = loaded.contract
    local = resolve_base(contract.base.id, directory)
    if local is None and is_hub_id(contract.base.id):
        if options.base_id and options.base_id != contract.base.id:
            raise ConfigError(
                f"The adapter was trained on {contract.base.id}, so --base-id {options.base_id} would be untrue. Leave it out."
            )
        revision = contract.base.commit or _same_weights_on_hub(_base_folder(contract, directory, options), contract.base.id)
        return contract.model_copy(update={"base": contract.base.model_copy(update={"revision": revision})})
    if options.base_id is None:
        raise ConfigError(
            f"The base {contract.base.id} is a folder, which nobody else has. "
            "Publish it on the Hub and say where with --base-id OWNER/NAME."
        )
    revision = _same_weights_on_hub(local or _base_folder(contract, directory, options), options.base_id)
    weights = contract.base.weights
    return contract.model_copy(
        update={"base": contract.base.model_copy(update={"id": options.base_id, "revision": revision, "weights_sha256": weights})}
    )


def _base_folder(contract: Contract, directory: Path, options: Options) -> Path:
    return find_base(contract, directory, default_device(), given=options.base)[0]


def _same_weights_on_hub(folder: Path, base_id: str) -> str:
    with asking(base_id, CHANNEL_SECONDS) as api:
        info = api.model_info(base_id, files_metadata=True)
    there = {file.rfilename: file.lfs.sha256 for file in info.siblings or [] if file.lfs}
    here = {path.name: contracts.sha256(path) for path in weight_files(folder)}
    differing = sorted(name for name, digest in here.items() if there.get(name) != digest)
    if differing or not here:
        raise ConfigError(
            f"{base_id} on the Hub does not hold the weights that the adapter was trained on ({', '.join(differing) or 'no safetensors'} "
            "differ or are missing). Upload that folder, or name the right repository with --base-id."
        )
    return str(info.sha)


def _stated(base: str, revision: str | None) -> tuple[str, list[str]]:
    """The licence that a base's repository states, and the hub ids of what it says the base was made from."""
    with asking(base, CHANNEL_SECONDS) as api:
        card = api.model_info(base, revision=revision).card_data
    licence, parents = (card.get("license"), card.get("base_model")) if card else (None, None)
    if not licence:
        raise ConfigError(
            f"The repository of {base} states no licence. Say under which the adapter may go with --licence, as in --licence mit."
        )
    return str(licence), parents if isinstance(parents, list) else [parents] if parents else []


def _content(
    directory: Path,
    loaded: LoadedModel,
    contract: Contract,
    run: dict[str, Any],
    evaluation: dict[str, Any],
    options: Options,
    refused: list[str],
) -> dict[str, Path | bytes]:
    """Every file of the commit by its name."""
    check_names(str(directory.name), [path.name for path in directory.iterdir()])
    base = contract.base
    licence, made_from = (options.licence, []) if options.licence else _stated(base.id, base.revision)
    llama = bool(run.get("built_with_llama")) or is_llama(base.id, licence=licence, made_from=made_from)
    if llama:
        check_name(options.repo, base.id)
    files: dict[str, Path | bytes] = {name: directory / name for name in SHIPPED if (directory / name).is_file()}
    papers = _licence_files(directory, contract)
    files |= {path.name: path for path in papers}
    if llama:
        files["NOTICE"] = notice(papers).encode()
    files |= _from_the_data(directory, run.get("data", {}), evaluation)
    peft = _read_json(directory / ADAPTER_CONFIG) | {"base_model_name_or_path": base.id, "revision": base.revision}
    published_run = run | {"base": base.model_dump(exclude={"architecture"}, exclude_defaults=True)}
    files[ADAPTER_CONFIG] = _json(peft, sort_keys=True)
    files[RUN_FILE] = _json(published_run)
    files[contracts.FILE_NAME] = (contract.model_dump_json(indent=1) + "\n").encode()
    prompt = loaded.tokenizer.apply_chat_template(contract.golden[0].messages, add_generation_prompt=True, tokenize=False)
    card = Card(
        repo=options.repo,
        contract=contract,
        licence=licence,
        llama=llama,
        licence_files=sorted([*(path.name for path in papers), *(["NOTICE"] if llama else [])]),
        prompt=str(prompt),
        pad_token_id=int(loaded.tokenizer.pad_token_id),
        shipped=frozenset(files),
        refused=refused,
        reason=options.allow_regression,
    )
    files["README.md"] = render(card, published_run, rows_of(evaluation)).encode()
    return files


def _from_the_data(directory: Path, data: dict[str, Any], evaluation: dict[str, Any]) -> dict[str, Path | bytes]:
    """Cards and report, as far as the licence of the training data lets them go."""
    free = may_be_shipped(data.get("licence"))
    files: dict[str, Path | bytes] = {}
    if free and (directory / CARDS_FILE).is_file():
        files[CARDS_FILE] = directory / CARDS_FILE
    # The report shows questions and references, too: of the training data, or of others whose licence is not known here.
    if free and all(data.get("id") in (name, Path(name).name) for name in evaluation.get("data", [])):
        return files | {name: directory / name for name in (EVALUATION_FILE, REPORT_FILE) if (directory / name).is_file()}
    return files | {EVALUATION_FILE: _json(shareable(evaluation))}


def _json(values: dict[str, Any], **options: Any) -> bytes:
    return (json.dumps(values, indent=1, **options) + "\n").encode()


def _licence_files(directory: Path, contract: Contract) -> list[Path]:
    """The licence files of the base: those in the adapter directory, else in the base's repository, else in one of its equivalents."""
    for place in (None, contract.base.id, *contract.base.equivalents):
        try:
            folder = (
                directory if place is None else fetch(place, contract.base.revision if place == contract.base.id else None, LICENCE_FILES)
            )
        except (AdapterNotFound, HubUnavailable):  # gated, say
            continue
        if found := sorted(path for pattern in LICENCE_FILES for path in folder.glob(pattern) if path.is_file()):
            return found
    return []


def _create(repo: str, private: bool, user: str) -> None:
    try:
        HfApi().create_repo(repo, private=private or None, exist_ok=True)
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ConfigError(
                f"The account {user} may not create {repo}. "
                f"Take --repo {user}/{repo.split('/')[1]}, or a token with the right to write there."
            ) from error
        raise


def _check_repository(repo: str, private: bool) -> None:
    """Refuses to overwrite something else, and to publish openly what was meant to be private."""
    with asking(repo, CHANNEL_SECONDS) as api:
        info = api.model_info(repo)
    names = {file.rfilename for file in info.siblings or []}
    if names - {".gitattributes", "README.md"} and contracts.FILE_NAME not in names:
        raise ConfigError(
            f"The name {repo} is taken: it holds something other than an adapter of this project. Choose another with --repo."
        )
    if private and not info.private:
        raise ConfigError(f"{repo} exists already and is public. Make it private in its settings on the Hub, or leave --private out.")


def _commit(repo: str, content: dict[str, Path | bytes], evaluation: dict[str, Any]) -> str:
    api = HfApi()
    there = {file.rfilename for file in api.model_info(repo).siblings or []}
    add = [CommitOperationAdd(name, data if isinstance(data, bytes) else str(data)) for name, data in content.items()]
    remove = [CommitOperationDelete(name) for name in sorted(there - content.keys() - {".gitattributes"})]
    # Sent again after a lost answer, the client finds every file unchanged and makes no second commit.
    return str(api.create_commit(repo, [*add, *remove], commit_message="Publish adapter").oid)


def _retry(action: Callable[[], T], repo: str) -> T:
    """Tries again when the connection breaks or the Hub is overloaded; a commit is there as a whole or not at all.

    Raises:
        AdapterError: The account's storage is full.
        ConfigError: The account may not write there.
        HubUnavailable: It broke every time.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except (httpx.HTTPError, HubUnavailable, RuntimeError) as error:
            # The client wraps what breaks a large file's upload.
            broken = error.__cause__ if isinstance(error, RuntimeError) and isinstance(error.__cause__, httpx.HTTPError) else error
            if isinstance(broken, RuntimeError):
                raise
            if isinstance(broken, HfHubHTTPError):
                _check_refusal(broken, repo)
        if attempt < ATTEMPTS:
            wait = WAIT_SECONDS * 2 ** (attempt - 1)
            log.warning("The connection to the Hub broke (%s); trying again in %.0f s.", type(broken).__name__, wait)
            time.sleep(wait)
    raise HubUnavailable(
        f"The connection to the Hub broke {ATTEMPTS} times ({type(broken).__name__}). "
        "No half of a revision was written; run the same command again."
    ) from broken


def _check_refusal(error: HfHubHTTPError, repo: str) -> None:
    """Raises a sentence for a refusal that another attempt would not change."""
    status, said = error.response.status_code, str(error).lower()
    if status in (402, 413, 507) or "storage" in said:
        raise AdapterError(
            f"There is no space left for {repo} on the Hub. Free some in the account's settings, or publish under another owner."
        ) from error
    if status in (401, 403) or isinstance(error, RepositoryNotFoundError):
        raise ConfigError(f"This account may not write to {repo} ({status}). Choose another name with --repo, or ask its owner.") from error
    if status < 500 and status != 429:
        raise HubUnavailable(
            f"The Hub refused the upload ({status}): the card or a file breaks one of its rules. Nothing was changed."
        ) from error
