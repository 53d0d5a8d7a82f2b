"""What a visitor may choose: the owner's adapter, and those that lie in the owner's folder at this moment. Names, never paths, come in."""

from dataclasses import replace

from app import contract
from app.errors import AdapterNotFound
from app.model import LoadedModel, find_adapters, public_name, resolve_adapter
from app.settings import Settings


def offered(settings: Settings) -> dict[str, str]:
    """Names as shown to visitors, and the adapters that they stand for; the default comes first."""
    found: dict[str, str] = {}
    for adapter in [settings.adapter, *find_adapters(settings.adapters_folder)]:
        found.setdefault(public_name(adapter), adapter)
    return found


def choose(name: str, settings: Settings) -> str | None:
    """The adapter that a name stands for, None for the default.

    Raises:
        AdapterNotFound: Nothing of that name is offered now.
    """
    found = offered(settings)
    if name not in found:
        raise AdapterNotFound(f"The adapter {name[:100]} is not offered here. Choose another one in Settings.")
    return None if found[name] == settings.adapter else found[name]


def describe(name: str, default: LoadedModel | None, settings: Settings) -> LoadedModel | None:
    """The default adapter as it was opened, or as much as can be said of another one before it is; None while loading.

    Raises:
        AdapterError: The adapter is not offered, or is damaged.
    """
    adapter = choose(name, settings)
    if default is None or adapter is None:
        return default
    return replace(default, name=adapter, base=contract.read(resolve_adapter(adapter)[0]).base.id, cards=[])
