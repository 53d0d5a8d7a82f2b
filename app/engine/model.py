"""Opens an adapter on its base model, and proves that both are what was trained.

Knows nothing of requests, pages or servers. No pickle is ever opened and no remote code is ever run.
"""

import itertools
import json
import logging
import time
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter import hub
from app.adapter.base import find_base
from app.adapter.behaviour import Probe, verify_behaviour
from app.adapter.cards import training_cards
from app.adapter.contract import Contract
from app.adapter.directory import WEIGHTS_FILE, open_tokenizer, read_run, resolve_adapter
from app.adapter.lineage import is_llama
from app.engine.decoder import Decoder, lacks_room, supports
from app.errors import AdapterError, UserError

log = logging.getLogger(__name__)

# The decoders of open models, by folder of the base, its revision, the context's length, the device and how weights were quantised.
Decoders = MutableMapping[tuple[str, str | None, int, str, str], Decoder]
_NUMBERS = itertools.count(2)  # names of adapters beside another on the same base

# How far the decoder's logits of the golden prompt may lie from the model's, relative. Both round at other places, and 28 layers of
# random weights, which damp nothing, made 0.09 of it in bfloat16; one wrong weight makes more.
AGREEMENT = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.2}


@dataclass
class LoadedModel:
    """An adapter on its base, verified and ready to generate.

    Attributes:
        name: What it was asked for as: a path or a hub id.
        adapter_revision: Hub commit of the adapter, or a hash of its weights for a folder.
        pin: What the Hub said of the adapter; None for a folder.
        base_revision: Hub commit of the base, or a hash of its weights for a folder.
        model: The base with its adapters, a `PeftModel`; None where a server holds it.
        probe: What the check on load measured; None where a server holds the model.
        adapter_name: The adapter's name inside `model`, which several adapters on the same base share.
        decoder: The quick way to make tokens with `model`; None where there is none for it.
        run: Provenance written by training (`run.json`).
        cards: The training cards that travel with the adapter; empty where they may not.
        load_seconds: Seconds that opening, checking and warming up took.
        warm_up_seconds: Seconds of them that warming up took.
        memory_bytes: Bytes of weights, of the decoder's copy and of its cache, shared ones included.
        warm: Whether it has been warmed up.
    """

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    contract: Contract
    probe: Probe | None
    base: str
    base_revision: str | None
    adapter_revision: str | None
    device: str
    dtype: str
    adapter_name: str = "default"
    decoder: Decoder | None = None
    run: dict[str, Any] = field(default_factory=dict)
    cards: list[dict[str, Any]] = field(default_factory=list)
    load_seconds: float = 0.0
    pin: hub.Pin | None = None
    warm_up_seconds: float = 0.0
    memory_bytes: int = 0
    warm: bool = False

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Prepares the decoder, and goes on without it where it does not say what the model says: the first answer then is like any other.

        Must be called from the thread that makes the answers, because a CUDA graph belongs to one.
        """
        if self.warm:
            return
        started = time.perf_counter()
        if self.decoder is not None:
            try:
                self.decoder.warm_up()
                difference = self._difference(self.decoder)
            except torch.cuda.OutOfMemoryError:
                log.warning("no memory is left for the fast decoder: answers are made the slow way")
                self.decoder, difference = None, 0.0
            if not difference <= AGREEMENT[str(self.model.dtype).removeprefix("torch.")]:
                log.warning("the fast decoder's logits differ by %.1e from the model's: answers are made the slow way", difference)
                self.decoder = None
        held = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.model.parameters(), *self.model.buffers())}
        self.memory_bytes = sum(held.values()) + (self.decoder.nbytes if self.decoder else 0)
        self.warm = True
        self.warm_up_seconds = time.perf_counter() - started
        self.load_seconds += self.warm_up_seconds

    def _difference(self, decoder: Decoder) -> float:
        """||decoder - model|| / ||model|| of the golden prompt's last logits, the larger of adapter on and off."""
        ids = torch.tensor(self.contract.golden[0].prompt_ids, device=self.device)
        found = []
        self.model.set_adapter(self.adapter_name)
        for adapter in (None, self.adapter_name):
            with nullcontext() if adapter else self.model.disable_adapter():
                expected = self.model(input_ids=ids[None], use_cache=False).logits[0, -1].float()
            decoder.use(adapter)
            decoder.logits(ids[:-1], 0)
            found.append(float((decoder.logits(ids[-1:], len(ids) - 1)[0].float() - expected).norm() / expected.norm()))
        return max(found)

    def close(self) -> None:
        """Gives the adapter's memory back where others share its base; the last one's goes with the object."""
        others = [name for name in self.model.peft_config if name != self.adapter_name]
        if others:
            self.model.set_adapter(others[0])
            self.model.delete_adapter(self.adapter_name)
            if self.decoder:
                self.decoder.forget(self.adapter_name)

    @property
    def way(self) -> str:
        """How tokens are made, for people."""
        if self.decoder is None:
            return "the library's loop" if self.model is not None else "the server"
        return ("CUDA graph, own kernels" if self.decoder.with_kernels else "CUDA graph") if self.device == "cuda" else "own loop"

    @property
    def is_demo(self) -> bool:
        """Whether the base is the small demonstration model."""
        return "demo" in Path(self.base).parts

    @property
    def built_with_llama(self) -> bool:
        """Whether Llama's licence asks for the words "Built with Llama": training found it at the base, or the base's name says so."""
        found = self.run.get("built_with_llama")
        return is_llama(self.base) if found is None else bool(found)


def _choose_dtype(config: Any, device: str) -> torch.dtype:
    if device == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    small = getattr(config, "hidden_size", 0) <= 1024
    return torch.float32 if small else torch.bfloat16


def _quantisation(contract: Contract, config: Any, dtype: torch.dtype, device: str) -> BitsAndBytesConfig | None:
    """How the weights of the files are to be quantised, so that they are those that training saw; None to take them as they are.

    On a CPU bitsandbytes decodes 0.15 tokens/s of a 3B model, so that there the weights of the files are opened.
    """
    if contract.base.quantisation is None or device != "cuda" or getattr(config, "quantization_config", None):
        return None
    # What is computed in changes no weight, and not every card has training's.
    return BitsAndBytesConfig(**contract.base.quantisation, bnb_4bit_compute_dtype=dtype)


def open_base(contract: Contract, folder: Path, name: str, device: str) -> PreTrainedModel:
    """The base model that a contract is about, quantised as in training where the device is made for that.

    Raises:
        AdapterError: Its files are damaged, or it is another model.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        contracts.verify_base(contract, config)
        dtype = _choose_dtype(config, device)
        return AutoModelForCausalLM.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            quantization_config=_quantisation(contract, config, dtype, device),
            device_map={"": device},
            use_safetensors=True,
            trust_remote_code=False,
        )
    except ImportError as error:
        raise AdapterError(
            f"The base model {name} is quantised, and bitsandbytes cannot be used here. Install it: pip install -r requirements.txt."
        ) from error
    except (SafetensorError, OSError, ValueError) as error:  # ValueError: it would need code of its own
        raise AdapterError(
            f"The base model {name} cannot be read: its files are damaged or incomplete. Restore them and try again."
        ) from error


def default_device() -> str:
    """The best device there is: "cuda" or "cpu"."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def dtype_name(model: Any) -> str:
    """Dtype of a model's weights, or "4bit"."""
    return "4bit" if getattr(model, "is_loaded_in_4bit", False) else str(model.dtype).removeprefix("torch.")


def load(adapter: str, device: str | None = None, decoders: Decoders | None = None, base: str = "") -> LoadedModel:
    """Opens an adapter, its tokenizer and its base, and verifies them against the prompt contract.

    Args:
        adapter: A folder, or `OWNER/NAME[@REVISION]` of a Hub repository.
        device: "cuda" or "cpu"; the best there is when None.
        decoders: Those of open models by their bases, added to here; a second adapter of a base is put on the same weights.
        base: A folder with the base, where it does not lie where the contract says.

    Raises:
        AdapterError: The adapter is missing, unsafe, damaged, or differs from what was trained.
        ConfigError: There is no base in the folder given.
        HubUnavailable: The Hub did not answer.
    """
    try:
        return _load(adapter, device or default_device(), {} if decoders is None else decoders, base)
    except OSError as error:
        file = f"{Path(str(error.filename)).name} " if error.filename else ""
        reason = error.strerror or type(error).__name__
        raise AdapterError(
            f"{adapter} cannot be opened, for a file of it or of its base cannot be read: {file}({reason}). "
            "Look at the file's rights and kind, or fetch it again."
        ) from error


def _load(adapter: str, device: str, decoders: Decoders, base: str) -> LoadedModel:
    started = time.perf_counter()
    directory, pin = resolve_adapter(adapter)
    contract = contracts.read(directory)
    tokenizer = open_tokenizer(adapter, directory, contract)
    folder, base_name, base_revision = find_base(contract, directory, device, pin is not None, base)
    loaded = LoadedModel(
        name=adapter,
        model=None,
        tokenizer=tokenizer,
        contract=contract,
        probe=None,
        base=base_name,
        base_revision=base_revision,
        adapter_revision=pin.commit if pin else "sha256:" + contracts.sha256(directory / WEIGHTS_FILE)[:16],
        device=device,
        dtype="",
        pin=pin,
        run=read_run(directory),
    )
    loaded.cards = training_cards(directory, loaded.run)
    with _enough_memory(base_name):
        _put_on_base(loaded, directory, folder, decoders)
    loaded.load_seconds = time.perf_counter() - started
    if pin:
        hub.remember(directory, pin.asked or (hub.APPROVED if pin.approved else None))
    change = loaded.probe.logit_change if loaded.probe else 0.0
    log.info(
        "opened %s on %s (%s, %s) in %.1f s; logits change by %.2f", adapter, base_name, device, loaded.dtype, loaded.load_seconds, change
    )
    return loaded


@contextmanager
def _enough_memory(base: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of PyTorch or of the driver
        if "out of memory" not in str(error):
            raise
        raise AdapterError(
            f"The base model {base} does not fit into the memory that is free. End what else uses the card, or open the adapter on a "
            "larger one, or on the processor with CUDA_VISIBLE_DEVICES= (nothing after the sign)."
        ) from error


def _put_on_base(loaded: LoadedModel, directory: Path, folder: Path, decoders: Decoders) -> None:
    """Opens the base in `folder`, or takes it from a decoder that holds it, puts the adapter on it, and verifies both."""
    contract = loaded.contract
    quantised = json.dumps(contract.base.quantisation, sort_keys=True) if loaded.device == "cuda" else ""
    key = str(folder), loaded.base_revision, contract.context_length, loaded.device, quantised
    decoder = decoders.get(key)
    if decoder is None:
        base = open_base(contract, folder, loaded.base, loaded.device)
    else:
        base = decoder.model.get_base_model()
        contracts.verify_base(contract, base.config)
        loaded.adapter_name = f"adapter{next(_NUMBERS)}"
    loaded.dtype = dtype_name(base)
    try:
        loaded.model = put_adapter(loaded.name, directory, loaded.adapter_name, base, decoder.model if decoder else None)
        loaded.probe = verify_behaviour(contract, loaded.model, loaded.tokenizer, loaded.dtype)
    except UserError:
        if decoder is not None and loaded.adapter_name in decoder.model.peft_config:
            decoder.model.delete_adapter(loaded.adapter_name)
        raise
    reason = supports(loaded.model) or (lacks_room(loaded.model) if decoder is None else None)
    if reason:
        log.info("%s: the library's own loop makes the tokens, for %s", loaded.name, reason)
        return
    if decoder is None:
        decoder = decoders[key] = Decoder(loaded.model, contract.context_length, (loaded.base, loaded.base_revision))
    loaded.decoder = decoder


def put_adapter(adapter: str, directory: Path, name: str, base: PreTrainedModel, model: PeftModel | None = None) -> PeftModel:
    """The base with an adapter active, beside those that `model` has already.

    Raises:
        AdapterError: The adapter does not fit the base, or is damaged.
    """
    options = {"is_trainable": False, "autocast_adapter_dtype": False, "low_cpu_mem_usage": True}
    try:
        if model is None:
            model = PeftModel.from_pretrained(base, str(directory), adapter_name=name, **options)
        else:
            model.load_adapter(str(directory), adapter_name=name, torch_device=str(base.device), **options)
            model.set_adapter(name)
    except Exception as error:  # safetensors and PEFT raise many kinds for damaged weights
        raise AdapterError(
            f"The weights of {adapter} do not fit their base or are damaged ({type(error).__name__}). Fetch or train it again."
        ) from error
    for parameter_name, parameter in model.named_parameters():
        if "lora_" in parameter_name:  # PEFT keeps the dtype of the file; computing in two dtypes would cast at every layer
            parameter.data = parameter.data.to(base.dtype)
    return model.eval()
