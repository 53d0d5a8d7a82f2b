"""Behind nginx, as docs/deploying.md shows it: below a path, with TLS, nothing held back, and clients told apart by what nginx saw.

The certificate is made for the run, and nginx is a real process.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.settings import ROOT, load_settings
from tests.answers import PATIENCE, Steer, wait_until
from tests.page_client import PageClient
from tests.servers import HTTP, SECURITY, Served, ask, free_port, ready, running

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
BELOW = "/qa"
ASKED = 4  # questions that one client may ask

# What docs/deploying.md shows, to be put between the lines that give nginx a place of its own.
SHOWN = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8"), flags=re.DOTALL)[1]
AROUND = """
daemon off;
pid FOLDER/nginx.pid;
error_log FOLDER/error.log;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 127.0.0.1:PORT ssl;
        ssl_certificate FOLDER/certificate.pem;
        ssl_certificate_key FOLDER/key.pem;
        SITE
    }
}
"""


def proxy(folder: Path, port: int, app: str) -> "subprocess.Popen[bytes]":
    """nginx on a port of its own, with a certificate made now."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost -keyout key.pem"
    subprocess.run([*command.split(), "-out", "certificate.pem"], cwd=folder, capture_output=True, check=True)
    site = SHOWN.replace("127.0.0.1:7860", f"127.0.0.1:{app.rpartition(':')[2]}")
    text = AROUND.replace("SITE", site).replace("PORT", str(port)).replace("FOLDER", str(folder))
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return subprocess.Popen([str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])


@pytest.fixture(scope="module")
def behind(loaded: LoadedModel, hooked: Steer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """The app, at its address at nginx."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    url = f"https://127.0.0.1:{port}{BELOW}"
    settings = load_settings(adapter=loaded.name, public_url=url, trusted_hops=1, client_limit=f"{ASKED}/hour")
    generator = LocalGenerator(lambda name: loaded, loaded.name)
    generator.wait_until_ready(PATIENCE)
    with running(settings, generator) as app:
        nginx = proxy(folder, port, app)
        try:
            wait_until(lambda: ready(url) or nginx.poll() is not None)
            assert nginx.poll() is None, (folder / "error.log").read_text()
            yield Served(url, generator, hooked)
        finally:
            hooked.reset()
            nginx.terminate()
            nginx.wait(PATIENCE)


@pytest.fixture
def site(behind: Served) -> Iterator[str]:
    """That address; no answer is left over from another test."""
    behind.rested()
    yield behind.url
    behind.rested()


pytestmark = pytest.mark.nginx


@pytest.fixture(scope="module", autouse=True)
def _nginx() -> None:
    if not NGINX or not shutil.which("openssl"):
        pytest.skip("nginx or openssl is not installed")


def test_the_page_and_all_that_it_loads_lie_below_the_path(site: str) -> None:
    page = HTTP.get(f"{site}/")
    assert page.status_code == 200
    assert SECURITY.items() <= dict(page.headers).items()
    config = HTTP.get(f"{site}/config").json()
    assert config["root"] == site
    assert f'"root":"{site}"' in page.text
    assets = [link for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if not link.startswith("data:")]
    # Gradio's template names a manifest at the root, for an app that one installs; there is none.
    loaded = {str(httpx.URL(f"{site}/").join(link)) for link in assets} - {str(httpx.URL(site).join("/manifest.json"))}
    assert any(address.endswith(".js") for address in loaded)
    for address in loaded:
        assert address.startswith(f"{site}/"), address
        assert HTTP.get(address).status_code == 200, address


def test_the_first_piece_of_an_answer_comes_while_the_rest_is_not_written_and_who_goes_away_is_gone(site: str, behind: Served) -> None:
    behind.steer.hold.at(4)
    with HTTP.stream("POST", f"{site}/v1/chat/completions", json=ask(stream=True)) as response:
        assert response.status_code == 200
        assert SECURITY.items() <= dict(response.headers).items()
        lines = response.iter_lines()  # held until the end: who forgets it goes away
        assert next(line for line in lines if '"content":"' in line and '"content":""' not in line)
        behind.steer.hold.wait()
    wait_until(lambda: behind.generator.queue_length == 0)  # nginx has handed on that the reader went
    assert behind.steer.step == 4


def test_the_page_gets_an_answer_in_pieces(site: str, behind: Served) -> None:
    behind.steer.hold.at(4)
    kinds = []
    for event in PageClient(site).told("What is asthma?"):
        kinds.append(json.loads(event)["msg"])
        if kinds.count("process_generating") == 2:
            break
    assert "process_completed" not in kinds
    behind.steer.hold.wait()
    assert behind.generator.queue_length == 1, "it is still being written"


def test_a_client_is_who_nginx_saw_whatever_it_says_of_itself(site: str) -> None:
    codes = []
    for number in range(ASKED + 1):  # the tests above have asked, too
        said = {"X-Forwarded-For": f"6.6.6.{number}", "X-Real-IP": f"6.6.6.{number}", "Forwarded": f"for=6.6.6.{number}"}
        codes.append(HTTP.post(f"{site}/v1/chat/completions", json=ask(max_tokens=1), headers=said).status_code)
    assert codes[-1] == 429
    transport = httpx.HTTPTransport(local_address="127.0.0.2", verify=False)
    with httpx.Client(transport=transport, timeout=PATIENCE) as other:
        assert other.post(f"{site}/v1/chat/completions", json=ask(max_tokens=1)).status_code == 200
