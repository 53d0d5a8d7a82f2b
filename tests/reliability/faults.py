"""Things that break: the disk, the Hub, the adapter's file, and the server's own end while people are being answered."""

import json
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil

from app.conversation import feedback
from app.settings import DEMO_ADAPTER, ROOT
from tests.conftest import publish_demo_base
from tests.hub_server import HubServer, Repo
from tests.page_client import PageClient
from tests.reliability.server import Row, Server, launch, running

QUESTION = [{"role": "user", "content": "What are the common symptoms of diabetes?"}]
LONG = [{"role": "user", "content": "What is asthma?"}]  # the base model alone writes on to the limit
REPO = "somebody/medical"
AT_ONCE = 8
SHUTDOWN_SECONDS = 60


def disk_full(folder: Path) -> Row:
    """The disk is full in the middle of a rating, and then it is not."""
    with running(folder) as server:
        page = PageClient(server.url)
        page.ask(QUESTION[0]["content"])

        def rate(comment: str) -> str:
            return page.press("agree", **{"The answer is": "correct", "Harm, if somebody acted on it": "none", "Comment": comment})

        told = [rate("one")]
        file = folder / "feedback" / feedback.FILE_NAME
        process = psutil.Process(server.popen.pid)
        before = process.rlimit(resource.RLIMIT_FSIZE)
        process.rlimit(resource.RLIMIT_FSIZE, (file.stat().st_size + 100, before[1]))
        told.append(rate("two"))
        process.rlimit(resource.RLIMIT_FSIZE, before)
        told.append(rate("three"))
        try:
            kept = [row.comment for row in feedback.read(file)]
        except Exception as error:
            kept = [str(error)]
        stored = ["Stored." in text for text in told]
        fine = stored == [True, False, True] and "could not be stored" in told[1] and kept == ["one", "three"]
        trouble = server.trouble()
    return Row("disk full while a rating is stored, then space again", 3, f"stored: {stored}, kept: {kept}"[:200], fine and not trouble)


def refuses(folder: Path, what: str, *arguments: str, **environment: str) -> Row:
    """The start ends with one sentence and status 1."""
    server = launch(folder, *arguments, **environment)
    try:
        status = server.popen.wait(300)
    finally:
        server.popen.kill()
    records = [json.loads(line) for line in server.said().splitlines() if line.startswith("{")]
    errors = [record["message"] for record in records if record["level"] == "error"]
    fine = status == 1 and len(errors) == 1 and errors[0].endswith(".") and "Traceback" not in server.said()
    return Row(what, 1, f"status {status}: {' / '.join(errors)}"[:250], fine)


def hub_down(folder: Path) -> list[Row]:
    """An adapter of the Hub, first with it, then without it; and one that was never opened here."""
    arguments, home = ("--adapter", REPO), {"HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_owner"}
    with HubServer() as hub:
        publish_demo_base(hub)
        files = {path.name: path.read_bytes() for path in (ROOT / DEMO_ADAPTER).iterdir() if path.is_file()}
        base = "somebody/demo-base"
        contract, config = json.loads(files["prompt_contract.json"]), json.loads(files["adapter_config.json"])
        contract["base"] |= {"id": base, "revision": hub.repos[base].main}
        config |= {"base_model_name_or_path": base, "revision": hub.repos[base].main}
        files |= {"prompt_contract.json": json.dumps(contract).encode(), "adapter_config.json": json.dumps(config).encode()}
        hub.repos[REPO] = Repo("somebody")
        hub.repos[REPO].commit(files, "Publish adapter")
        with running(folder / "up", *arguments, HF_ENDPOINT=hub.url, **home) as server, httpx.Client(timeout=120) as client:
            with_hub = server.complete(QUESTION, client, temperature=0).json()["choices"][0]["message"]["content"]
    with running(folder / "down", *arguments, **home) as server, httpx.Client(timeout=120) as client:
        without = server.complete(QUESTION, client, temperature=0).json()["choices"][0]["message"]["content"]
        trouble = server.trouble()
    same = with_hub == without
    kept = Row("Hub down, adapter opened here before", 2, f"the same answer: {'yes' if same else 'NO'}", same and not trouble)
    return [
        kept,
        refuses(folder / "never", "Hub down, adapter never opened here", "--adapter", "somebody/other", HF_HOME=str(folder / "empty")),
    ]


def truncated(folder: Path) -> list[Row]:
    """Half of the adapter's weights is gone: before the start, and while answers are being made from them."""
    adapter = shutil.copytree(ROOT / DEMO_ADAPTER, folder / "adapter")
    weights = adapter / "adapter_model.safetensors"
    with running(folder / "running", "--adapter", str(adapter)) as server, httpx.Client(timeout=120) as client:

        def ask() -> str:
            answer: str = server.complete(QUESTION, client, temperature=0).json()["choices"][0]["message"]["content"]
            return answer

        whole = ask()
        with weights.open("r+b") as file:
            file.truncate(weights.stat().st_size // 2)
        same = [ask() == whole, server.popen.poll() is None]
        trouble = server.trouble()
    row = Row(
        "adapter's file truncated while it answers", 2, f"same answer: {same[0]}, still running: {same[1]}", all(same) and not trouble
    )
    return [row, refuses(folder / "start", "adapter's file truncated before the start", "--adapter", str(adapter))]


def terminated(folder: Path) -> Row:
    """SIGTERM while answers run and wait: they end as they would have, a new question is refused, and the status is 0."""
    with running(folder, SHUTDOWN_SECONDS=str(SHUTDOWN_SECONDS)) as server:
        ended: list[bool] = []
        begun = threading.Semaphore(0)

        def listen() -> None:
            body = {"model": "base", "messages": LONG, "temperature": 0, "max_tokens": 64, "stream": True}
            with ExitStack() as stack:
                client = stack.enter_context(httpx.Client(timeout=300))
                begun.release()
                response = stack.enter_context(client.stream("POST", f"{server.url}/v1/chat/completions", json=body))
                lines = list(response.iter_lines())
                ended.append("data: [DONE]" in lines and any('"finish_reason":"length"' in line for line in lines))

        threads = [threading.Thread(target=listen) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for _ in threads:
            begun.acquire()
        _wait_for_queue(server, AT_ONCE - 1)
        at = time.monotonic()
        server.popen.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        try:
            refused = httpx.post(f"{server.url}/v1/chat/completions", json={"messages": QUESTION}, timeout=60)
            told = refused.status_code == 503 and "Retry-After" in refused.headers
        except httpx.HTTPError:
            told = False
        for thread in threads:
            thread.join()
        status = server.popen.wait(SHUTDOWN_SECONDS + 30)
        took = time.monotonic() - at
        trouble = server.trouble()
    fine = ended == [True] * AT_ONCE and told and status == 0 and took < SHUTDOWN_SECONDS + 5 and not trouble
    result = f"{sum(ended)} of {AT_ONCE} answers ended whole, a new one was refused: {told}, status {status}, {took:.0f} s" + "".join(
        trouble[:1]
    )
    return Row("SIGTERM under load", AT_ONCE, result, fine)


def _wait_for_queue(server: Server, least: int) -> None:
    for _ in range(200):
        found = re.search(r"app_queue_length (\d+)", httpx.get(f"{server.url}/metrics", timeout=30).text)
        if found and int(found[1]) >= least:
            return
        time.sleep(0.02)


def run(folder: Path) -> list[Row]:
    """All of them, one after the other."""
    return [disk_full(folder / "disk"), *hub_down(folder / "hub"), *truncated(folder / "truncated"), terminated(folder / "term")]
