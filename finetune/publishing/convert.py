"""Writes base and adapter as one model for other programs: 16-bit safetensors, GGUF for llama.cpp, a Modelfile for Ollama.

    python -m finetune export --adapter outputs/mine --format merged|gguf

The adapter is merged in 32 bits into the 16-bit base, by PEFT, with the scale it was trained with (llama.cpp's converter of adapters
does not know rsLoRA's). What was written is opened again and compared.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from app.adapter import contract as contracts
from app.adapter.base import find_base
from app.adapter.contract import Contract
from app.adapter.directory import resolve_adapter
from app.errors import ConfigError, ContractViolation, StorageError
from app.settings import ROOT

log = logging.getLogger(__name__)

CONVERTER = "convert_hf_to_gguf.py"
MODELFILE = "Modelfile"
GGUF_FILE = "model-bf16.gguf"
# Relative distance of the merged model's logits from those of base plus adapter. Merging rounds every weight to 16 bits once.
TOLERANCE = 0.05

# Words that stand in for what people write while a template is taken apart.
_FIRST, _REPLY, _SECOND = "firstquestionxyz", "firstreplyxyz", "secondquestionxyz"


def export(adapter: str, form: str, output: Path | None = None, llama_cpp: Path | None = None, base: str = "") -> Iterator[str]:
    """Writes the merged model, and from it a GGUF file where that is asked for.

    Args:
        adapter: A folder, or `OWNER/NAME[@REVISION]`.
        form: "merged" or "gguf".
        output: Folder to write into; it must not exist.
        llama_cpp: llama.cpp's source folder; looked for when None.
        base: A folder with the base, where it does not lie where the contract says.

    Yields:
        Sentences on what was written.

    Raises:
        ConfigError: The converter is not there.
        StorageError: The folder exists, or the disk is full.
        ContractViolation: The merged model does not behave as base plus adapter do.
    """
    converter = find_converter(llama_cpp) if form == "gguf" else None
    directory, pin = resolve_adapter(adapter)
    output = output or ROOT / "outputs" / f"{pin.repo.split('/')[1] if pin else directory.name}-merged"
    if output.exists():
        raise StorageError(f"{output} exists already. Choose another folder with --output, or remove that one.")
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        distance = merge(directory, partial, pin is not None, base)
        if converter:
            convert(converter, partial)
            in_modelfile = partial / MODELFILE
            in_modelfile.write_text(in_modelfile.read_text(encoding="utf-8").replace("FROM .\n", f"FROM ./{GGUF_FILE}\n"), encoding="utf-8")
        partial.replace(output)
    except OSError as error:
        raise StorageError(
            f"Writing to {output} failed ({error.strerror or type(error).__name__}). Free some space and try again."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    yield f"{output} holds the merged model in 16 bits; its logits differ by {distance:.2%} from base plus adapter."
    if converter:
        yield f"{output / GGUF_FILE} is for llama.cpp: llama-server -m {output / GGUF_FILE} --jinja"
    yield f"For Ollama: ollama create NAME -f {output / MODELFILE}"


def merge(directory: Path, output: Path, from_hub: bool = False, given: str = "") -> float:
    """Merges an adapter into its 16-bit base and writes model, tokenizer, template, generation settings and Modelfile.

    Args:
        directory: The adapter directory.
        output: Folder to write into.
        from_hub: As for `find_base`.
        given: As for `find_base`.

    Returns:
        Relative distance of the written model's logits from those of base plus adapter, on the golden prompts.

    Raises:
        ContractViolation: The distance is above `TOLERANCE`, or the base is not the trained one.
    """
    contract = contracts.read(directory)
    tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    contracts.verify_files(contract, directory, tokenizer)
    folder, name, _ = find_base(contract, directory, "cpu", from_hub, given)  # on a CPU never the 4-bit one
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        raise ConfigError(f"{name} holds quantised weights, and the contract lists no 16-bit repository of them. Train on a 16-bit base.")
    contracts.verify_base(contract, config)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    model = PeftModel.from_pretrained(base, str(directory), autocast_adapter_dtype=True).eval()
    expected = golden_logits(model, contract)
    merged = model.merge_and_unload().to(torch.bfloat16)
    merged.generation_config = generation_config(contract, tokenizer)
    merged.save_pretrained(output, safe_serialization=True)
    tokenizer.save_pretrained(output)
    del model, base, merged
    (output / MODELFILE).write_text(modelfile(tokenizer, contract), encoding="utf-8")
    written = AutoModelForCausalLM.from_pretrained(output, dtype=torch.float32, use_safetensors=True).eval()
    distance = max(float((new - old).norm() / old.norm()) for new, old in zip(golden_logits(written, contract), expected, strict=True))
    if not distance <= TOLERANCE:
        raise ContractViolation(
            f"The merged model's logits differ by {distance:.1%} from base plus adapter, and up to {TOLERANCE:.0%} is rounding. "
            "Nothing was written; train again, or report this."
        )
    return distance


@torch.inference_mode()
def golden_logits(model: PreTrainedModel, contract: Contract) -> list[torch.Tensor]:
    """Logits after each golden prompt: a list of (T, V) float32."""
    return [model(input_ids=torch.tensor([golden.prompt_ids]), use_cache=False).logits[0].float() for golden in contract.golden]


def generation_config(contract: Contract, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """The contract's defaults in transformers' form, for programs that know no contract."""
    values = contract.generation
    sampling = {"do_sample": True, "temperature": values.temperature, "top_p": values.top_p} if values.temperature else {"do_sample": False}
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=contract.eos_token_ids,
        pad_token_id=tokenizer.pad_token_id,
        max_new_tokens=values.max_new_tokens,
        repetition_penalty=values.repetition_penalty,
        **sampling,
    )


def find_converter(llama_cpp: Path | None) -> Path:
    """llama.cpp's own converter: in the folder given, in LLAMA_CPP_DIR, or on the path.

    Raises:
        ConfigError: It is not there; the message says how to get it.
    """
    folder = llama_cpp or (Path(os.environ["LLAMA_CPP_DIR"]) if os.environ.get("LLAMA_CPP_DIR") else None)
    found = str(folder / CONVERTER) if folder else shutil.which(CONVERTER)
    if found and Path(found).is_file():
        return Path(found)
    raise ConfigError(
        f"llama.cpp's converter {CONVERTER} is not {f'in {folder}' if folder else 'here'}. Get it with `git clone --depth 1 "
        "https://github.com/ggml-org/llama.cpp` and `pip install gguf sentencepiece`, and name the folder with --llama-cpp."
    )


def convert(converter: Path, model: Path) -> None:
    """Runs llama.cpp's converter on a merged model.

    Raises:
        ConfigError: It failed; the message ends with its last line.
    """
    command = [sys.executable, str(converter), str(model), "--outfile", str(model / GGUF_FILE), "--outtype", "bf16"]
    log.info("Converting with %s", converter)
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode or not (model / GGUF_FILE).is_file():
        lines = [line for line in (result.stderr or result.stdout).splitlines() if line.strip()]
        reason = " ".join((lines[-1] if lines else "it wrote nothing").split())[:200].rstrip(".")
        raise ConfigError(
            f"llama.cpp's converter failed ({reason}). Update llama.cpp and its gguf package; a tokenizer that it does not know "
            "cannot be converted. --format merged works all the same."
        )


def modelfile(tokenizer: PreTrainedTokenizerBase, contract: Contract) -> str:
    """An Ollama Modelfile with the adapter's own prompt format: https://docs.ollama.com/modelfile."""
    stops = [str(tokenizer.convert_ids_to_tokens(i)) for i in contract.eos_token_ids]
    values = contract.generation
    lines = [
        "# The template writes the prompts that the model was trained with. Ollama has no way to neutralise special tokens or headings",
        "# that a person types, nor to trim a question; the chat app of this project does both.",
        "FROM .",
        f'TEMPLATE """{go_template(tokenizer)}"""',
        *[f"PARAMETER stop {json.dumps(stop)}" for stop in stops],
        f"PARAMETER num_ctx {contract.context_length}",
        f"PARAMETER num_predict {values.max_new_tokens}",
        f"PARAMETER temperature {values.temperature:g}",
        f"PARAMETER top_p {values.top_p:g}",
        f"PARAMETER repeat_penalty {values.repetition_penalty:g}",
    ]
    return "\n".join(lines) + "\n"


def go_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The chat template in Go's language, as Ollama wants it, taken from what the Jinja template renders.

    The text between contents is the same in every turn, so one conversation of two turns shows all of it. BOS is left out: Ollama's
    runner adds it. System messages are left out, as our templates refuse them.

    Raises:
        ConfigError: The template treats later turns in another way than the second.
    """
    opening, between, closing = _parts(tokenizer)
    first, later, after = (json.dumps(text, ensure_ascii=False) for text in (opening, between, closing))
    return (
        "{{- $first := true }}{{ range .Messages }}"
        '{{ if eq .Role "user" }}'
        f"{{{{ if $first }}}}{{{{ {first} }}}}{{{{ $first = false }}}}{{{{ else }}}}{{{{ {later} }}}}{{{{ end }}}}"
        f"{{{{ .Content }}}}{{{{ {after} }}}}"
        '{{ else if eq .Role "assistant" }}{{ .Content }}{{ end }}{{ end }}'
    )


def _parts(tokenizer: PreTrainedTokenizerBase) -> tuple[str, str, str]:
    """What stands before the first question, between an answer and the next question, and between a question and its answer."""

    def render(*contents: str) -> str:
        roles = ("user", "assistant")
        messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    text = render(_FIRST, _REPLY, _SECOND)
    opening, rest = text.split(_FIRST)
    after, rest = rest.split(_REPLY)
    between, closing = rest.split(_SECOND)
    rebuilt = opening + _FIRST + after + _REPLY + between + _SECOND + after + _REPLY + between + _FIRST + after
    if after != closing or render(_FIRST, _REPLY, _SECOND, _REPLY, _FIRST) != rebuilt:
        raise ConfigError("This chat template writes later turns in a way of its own, which Ollama's templates cannot be made to follow.")
    return opening.removeprefix(tokenizer.bos_token or ""), between, closing
