"""The page's own protocol over HTTP, without a browser: joins Gradio's queue as the page does, and reads what comes back."""

import json
import secrets
from typing import Any

import httpx


class PageClient:
    """One visitor's page.

    Args:
        url: The server's address.
        headers: Sent with every request.
    """

    def __init__(self, url: str, **headers: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=60, verify=False, headers=headers)
        self.config = self.http.get("/config").raise_for_status().json()
        self.components = {component["id"]: component for component in self.config["components"]}
        question = next(key for key, one in self.components.items() if one["props"].get("elem_id") == "question")
        self.trigger = question
        self.event = next(one for one in self.config["dependencies"] if [question, "submit"] in [list(pair) for pair in one["targets"]])
        self.joined: httpx.Response | None = None

    def ask(self, question: str) -> str:
        """Asks on an empty page; returns everything that the page is told until the end, as text."""
        values = {key: self.components[key]["props"].get("value") for key in self.event["inputs"]}
        values[self.trigger] = question
        data: list[Any] = [
            [] if self.components[key]["type"] == "chatbot" else None if self.components[key]["type"] == "state" else value
            for key, value in values.items()
        ]
        session = secrets.token_hex(6)
        body = {"data": data, "fn_index": self.event["id"], "session_hash": session, "trigger_id": self.trigger}
        self.joined = self.http.post("/gradio_api/queue/join", json=body)
        self.joined.raise_for_status()
        told = []
        with self.http.stream("GET", "/gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    told.append(line)
                    if json.loads(line[5:])["msg"] in ("process_completed", "close_stream"):
                        break
        return "\n".join(told)
