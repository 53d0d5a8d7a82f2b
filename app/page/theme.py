"""How the page looks: the Gradio theme, and the options that whoever launches or mounts the page must pass on."""

from typing import Any

import gradio as gr
from gradio.themes.utils.colors import Color

from app.notices.identifiers import PATTERNS_FILE
from app.settings import ROOT

ASSETS = ROOT / "assets"

TEAL = Color(
    "#eef7f7", "#d5ebeb", "#aed8d9", "#7dbfc2", "#4a9fa4", "#2a8288", "#1c6870", "#17545b", "#15444a", "#13393e", "#082226", name="teal"
)
WARM = Color(
    "#faf9f7", "#f3f1ee", "#e6e3de", "#d3cfc8", "#a8a39a", "#7b766d", "#5c5850", "#454239", "#2b2924", "#1f1e1b", "#161513", name="warm"
)


def theme() -> gr.themes.Base:
    """Deep teal on warm greys, in the reader's own system fonts; each text has a contrast of 4.5 or more with its ground."""
    base = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=WARM,
        font=["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"],
        font_mono=["ui-monospace", "SF Mono", "Consolas", "monospace"],
    )
    pairs = {  # property: light, dark
        "body_background_fill": ("*neutral_50", "*neutral_950"),
        "body_text_color": ("*neutral_800", "*neutral_200"),
        "body_text_color_subdued": ("*neutral_600", "*neutral_400"),
        "block_info_text_color": ("*neutral_600", "*neutral_400"),
        "input_placeholder_color": ("*neutral_600", "*neutral_400"),
        "input_background_fill": ("white", "*neutral_900"),
        "block_border_width": ("0px", "0px"),
        "button_primary_background_fill": ("*primary_700", "*primary_600"),
        "button_primary_background_fill_hover": ("*primary_800", "*primary_700"),
        "button_primary_text_color": ("white", "white"),
        "slider_color": ("*primary_600", "*primary_400"),
    }
    return base.set(**{key: light for key, (light, _) in pairs.items()}, **{f"{key}_dark": dark for key, (_, dark) in pairs.items()})


# Accepted by `Blocks.launch` and by `gr.mount_gradio_app` alike.
LAUNCH_OPTIONS: dict[str, Any] = {
    "theme": theme(),
    # Not through `css_paths`: that would put a prefix before every selector, so that none could begin at the body.
    "head": (
        f"<style>{(ASSETS / 'style.css').read_text('utf-8')}</style>"
        f'<script type="application/json" id="identifier-patterns">{PATTERNS_FILE.read_text("utf-8")}</script>'
        f"<script>{(ASSETS / 'page.js').read_text('utf-8')}</script>"
    ),
    "favicon_path": ASSETS / "logo.svg",
    "footer_links": [],
    "run_history": False,
    "show_error": False,
    "enable_monitoring": False,
    "ssr_mode": False,
    "pwa": False,
    "mcp_server": False,
    "max_file_size": 1,  # bytes: there is nothing to upload here
}
