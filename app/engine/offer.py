"""What a visitor may choose: the owner's adapter, and those that lie in the owner's folder at this moment. Names, never paths, come in."""

from dataclasses import replace
from pathlib import Path

from app.adapter import contract, hub
from app.adapter.directory import find_adapters, find_folder, public_name
from app.engine.model import LoadedModel
from app.errors import AdapterNotFound
from app.settings import Settings


def offered(settings: Settings) -> dict[str, str]:
    """Names as shown to visitors, and the adapters that they stand for; the default comes first."""
    found: dict[str, str] = {}
    more = [name.strip() for name in settings.more_adapters.split(",") if name.strip()]
    for adapter in [settings.adapter, *more, *find_adapters(settings.adapters_folder)]:
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
    folder = find_folder(adapter) or _cached(adapter)
    base = contract.read(folder).base.id if folder else "that it was trained on"
    return replace(default, name=adapter, base=base, cards=[], pin=None)


def _cached(adapter: str) -> Path | None:
    """Its folder in the cache; the Hub is not asked each time that somebody looks at the list."""
    reference = hub.parse(adapter)
    pin = hub.cached(*reference) if reference else None
    return hub.fetch(pin.repo, pin.commit) if pin else None
