"""The page's own protocol over HTTP, without a browser: joins Gradio's queue as the page does, and reads what comes back."""

import json
import secrets
from collections.abc import Iterator, Sequence
from typing import Any

import httpx

TRANSPORT = httpx.HTTPTransport(verify=False)  # of all of them: each would read certificates anew, and none is closed before the others


class PageClient:
    """One visitor's page.

    Args:
        url: The server's address.
        headers: Sent with every request.
    """

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=240, transport=TRANSPORT, headers=headers)
        self.config = self.http.get("/config").raise_for_status().json()
        self.components = {component["id"]: component for component in self.config["components"]}
        self.trigger = self._named("question")
        self.event = self._event(self.trigger, "submit")
        self.session = secrets.token_hex(6)
        self.joined: httpx.Response | None = None

    def ask(self, question: str) -> str:
        """Asks on an empty page; returns everything that the page is told until the end, as text."""
        return "\n".join(self.told(question))

    def told(self, question: str, history: Sequence[dict[str, Any]] = (), **controls: Any) -> Iterator[str]:
        """Asks, and yields the JSON of each event as it comes; the last shows how the answer ended, or why there is none.

        Args:
            question: What is typed.
            history: The messages before it, as the page holds them.
            controls: New values of the settings, by what stands beside them, such as {"Use the adapter": False}.
        """
        data: list[Any] = []
        for key in self.event["inputs"]:
            one, props = self.components[key], self.components[key]["props"]
            value = controls.get(props.get("label"), props.get("value"))
            data.append(
                question if key == self.trigger else [*history] if one["type"] == "chatbot" else None if one["type"] == "state" else value
            )
        ended: dict[str, Any] = {}
        for line in self._queued(data):
            told = json.loads(line)
            for state in self._woken(told):
                event = self._event(state, "change")
                output = json.loads(self._posted(event, state, [None] * len(event["inputs"])))
                ended = {"msg": "process_completed", "success": "data" in output, "output": output, "fn_index": event["id"]}
            yield json.dumps(ended) if ended and told["msg"] == "process_completed" else line

    def output(self, event: dict[str, Any], elem_id: str) -> Any:
        """What the last event of an answer says of a component."""
        said_by = next(one for one in self.config["dependencies"] if one["id"] == event.get("fn_index", self.event["id"]))
        value = event["output"]["data"][[self.components[key]["props"].get("elem_id") for key in said_by["outputs"]].index(elem_id)]
        return value.get("value") if isinstance(value, dict) and "__type__" in value else value

    def _named(self, elem_id: str) -> int:
        return next(key for key, one in self.components.items() if one["props"].get("elem_id") == elem_id)

    def _event(self, target: int, kind: str) -> dict[str, Any]:
        return next(one for one in self.config["dependencies"] if [target, kind] in [list(pair) for pair in one["targets"]])

    def _woken(self, told: dict[str, Any]) -> list[int]:
        """The states that an event has changed, for which other events wait."""
        waiting = {target for one in self.config["dependencies"] for target, kind in one["targets"] if kind == "change"}
        return [key for key in (told.get("output") or {}).get("changed_state_ids") or [] if key in waiting]

    def _body(self, event: dict[str, Any], trigger: int, data: list[Any]) -> dict[str, Any]:
        return {"data": data, "fn_index": event["id"], "session_hash": self.session, "trigger_id": trigger}

    def _posted(self, event: dict[str, Any], trigger: int, data: list[Any]) -> str:
        return self.http.post("/gradio_api/run/predict", json=self._body(event, trigger, data)).raise_for_status().text

    def _queued(self, data: list[Any]) -> Iterator[str]:
        self.joined = self.http.post("/gradio_api/queue/join", json=self._body(self.event, self.trigger, data)).raise_for_status()
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield line[5:]
                    if json.loads(line[5:])["msg"] in ("process_completed", "close_stream"):
                        return

    def press(self, elem_id: str, **controls: Any) -> str:
        """Presses a button whose event does not stand in the queue; returns what the server answers, as text."""
        button = self._named(elem_id)
        event = self._event(button, "click")
        props = [self.components[key]["props"] for key in event["inputs"]]
        return self._posted(event, button, [controls.get(one.get("label"), one.get("value")) for one in props])
