"""Before a model server answers anybody: which of its names is the adapter's, and whether it makes the prompts that training made."""

from typing import Any

import openai

from app.adapter.contract import Contract
from app.adapter.directory import public_name
from app.errors import AdapterError, ContractViolation


async def server_names(client: openai.AsyncOpenAI, adapter: str, chosen: tuple[str, str], alone: bool) -> tuple[str, str | None]:
    """The server's names for an adapter and for its base.

    Args:
        client: Speaks to the server.
        adapter: A folder or hub id.
        chosen: What the owner says they are; empty where it is to be looked up.
        alone: The adapter may be the only thing that the server offers beside the base, under any name.

    Raises:
        AdapterError: It does not offer the adapter.
        openai.OpenAIError: It does not answer.
    """
    model, base = chosen
    if model:
        return model, base or None
    served = [entry async for entry in client.models.list()]
    # vLLM lists LoRA adapters with the base as their parent.
    parent = base or next((str(parent) for entry in served if (parent := getattr(entry, "parent", None))), None)
    names = [entry.id for entry in served]
    short = public_name(adapter).rsplit("/", 1)[-1]
    tuned = [name for name in names if name in (adapter, public_name(adapter), short)]
    others = [name for name in names if name != parent]
    if tuned:
        return tuned[0], parent
    if alone and len(others) == 1:
        return others[0], parent
    raise AdapterError(
        f"The model server offers {', '.join(names[:5]) or 'no model'}, and none of them is the adapter {short}. "
        "Name the right one in ENGINE_MODEL, or have the server load the adapter under its own name."
    )


async def check_template(client: openai.AsyncOpenAI, contract: Contract, name: str) -> None:
    """Golden prompts must become the same tokens there as in training.

    Raises:
        ContractViolation: One does not.
        openai.OpenAIError: The server does not answer.
    """
    for number, golden in enumerate(contract.golden, 1):
        found = await _prompt_ids(client, golden.messages, name)
        if found is not None and found != golden.prompt_ids:
            where = next((i for i, (a, b) in enumerate(zip(found, golden.prompt_ids, strict=False)) if a != b), len(found))
            raise _differs(number, len(golden.prompt_ids), f"{len(found)}, other ones from place {where + 1} on")
        if found is None:
            messages: Any = golden.messages
            answer = await client.chat.completions.create(model=name, messages=messages, max_tokens=1, temperature=0.0)
            tokens = answer.usage.prompt_tokens if answer.usage else None
            if tokens != len(golden.prompt_ids):
                raise _differs(number, len(golden.prompt_ids), "a number it does not tell" if tokens is None else str(tokens))


async def _prompt_ids(client: openai.AsyncOpenAI, messages: list[dict[str, str]], name: str) -> list[int] | None:
    """The prompt's token ids, from servers that have vLLM's `/tokenize`; None from others."""
    try:
        reply = await client.post(
            str(client.base_url).rstrip("/").removesuffix("/v1") + "/tokenize",
            body={"model": name, "messages": messages, "add_generation_prompt": True},
            cast_to=object,
        )
    except openai.APIStatusError:
        return None
    tokens = reply.get("tokens") if isinstance(reply, dict) else None
    return tokens if isinstance(tokens, list) and all(isinstance(token, int) for token in tokens) else None


def _differs(number: int, here: int, there: str) -> ContractViolation:
    return ContractViolation(
        f"Golden prompt {number} has {here} tokens in training and on the model server {there}: it does not use the adapter's chat "
        "template. Start it with that template (vLLM: --chat-template PATH/chat_template.jinja) and the adapter's tokenizer."
    )
