"""The page over a saved run: built from its folder alone, served on one port, nothing fetched elsewhere."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr

from modernbert.errors import ConfigError, DataError
from tasks.run import Run, has_text
from ui import run_tab
from ui.batch import FileTab
from ui.examples import examples_of
from ui.markup import STYLE
from ui.messages import as_message
from ui.renderers import renderer_of

#: Uploads and results are looked at every hour and deleted after a day; all of them when the page closes.
CLEAN = (3600, 86_400)
#: Of an upload. A CSV of a million short texts has about 100 MB.
MAX_FILE_SIZE = "500mb"
#: Ports tried above a busy one before the system chooses.
NEAR = 20
#: The system's own fonts: Gradio's are files it would have to send, and a web font would ask another server.
FONT = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")
#: Gradio's orange under white letters and its grey hints have less contrast than WCAG AA asks for (4.5).
HUE = "blue"
GREY, GREY_DARK = "*neutral_500", "*neutral_400"
HINT = "Shift + Enter answers."


def build(run: Run) -> gr.Blocks:
    """The page of a run.

    Raises:
        ConfigError: the page has no renderer for what the task gives.
    """
    lock = threading.Lock()
    title = f"{run.folder.resolve().name} · modernbert"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=CLEAN) as page:
        gr.Markdown(heading(run))
        with gr.Tab("Try a text"):
            text_tab(run, lock)
        with gr.Tab("Score a file"):
            FileTab(run, lock).build()
        with gr.Tab("The run"):
            run_tab.build(run)
    return page


def heading(run: Run) -> str:
    """The run's name and what it is, in two lines."""
    encoder = run.info.get("encoder", {}).get("source")
    data = run.info.get("data", {}).get("train")
    what = run.schema.describe()
    about = [what[:1].upper() + what[1:]]
    if encoder:
        about.append(f"encoder {encoder}")
    if data:
        about.append(f"trained on {data['rows']:,} rows")
    return f"# {run.folder.resolve().name}\n{' · '.join(about)}"


def text_tab(run: Run, lock: threading.Lock) -> None:
    """A box (or two) for a text, its answer beside, examples below."""
    pair = bool(run.schema.columns.get("text_pair"))
    names = ["First text", "Second text"] if pair else ["Text"]
    renderer = renderer_of(run)

    def answer(*texts: str) -> list[Any]:
        with as_message():
            for name, text in zip(names, texts, strict=True):
                if not has_text(text):
                    raise DataError(f"{name} is empty: type or paste one, or click an example.")
            with lock:
                found = run.answer([texts[0]], [texts[1]] if pair else None)[0]
            return renderer.show(found, *texts)

    with gr.Row():
        with gr.Column(min_width=300):
            boxes = [gr.Textbox(label=name, lines=4, max_lines=20, info=HINT) for name in names]
            button = gr.Button("Answer", variant="primary")
        with gr.Column(min_width=300):
            shown = renderer.build()
    # Before the examples: those make an event of the same function, and the first of them takes the name.
    gr.on([button.click, *(box.submit for box in boxes)], answer, boxes, shown, api_name="answer")
    examples = examples_of(run)
    if examples:
        gr.Examples(
            examples,
            boxes,
            shown,
            answer,
            label="Examples from the run's own rows",
            run_on_click=True,
            cache_examples=False,
        )


@contextmanager
def serving(run: Run, host: str, port: int) -> Iterator[str]:
    """Serve the page of a run while the context is open; gives its address.

    Only what is uploaded to it and what it computed can be downloaded from it.

    Raises:
        ConfigError: host or port cannot be used, or the page cannot show this task.
    """
    require_port(host, port)
    page = build(run)
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            theme=theme(),
            css=STYLE,
            footer_links=["settings"],
            run_history=False,
            enable_monitoring=False,
            allowed_paths=[],
            max_file_size=MAX_FILE_SIZE,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
        )
    except OSError:
        require_port(host, port)  # taken since the first look
        raise
    try:
        yield address(host, port)
    finally:
        page.close(verbose=False)


def theme() -> gr.Theme:
    """Gradio's own theme with fonts and contrast changed."""
    changed = gr.themes.Default(primary_hue=HUE, secondary_hue=HUE, font=FONT, font_mono=MONO)
    return changed.set(
        block_info_text_color=GREY,
        block_info_text_color_dark=GREY_DARK,
        body_text_color_subdued=GREY,
        body_text_color_subdued_dark=GREY_DARK,
    )


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def require_port(host: str, port: int) -> None:
    """
    Raises:
        ConfigError: nothing can listen there; names a port that is free where that is the trouble.
    """
    if not 1 <= port <= 65_535:
        raise ConfigError(f"port={port}: allowed is 1 to 65535.")
    try:
        listen(host, port)
    except PermissionError:
        free = free_port(host, 7860)
        raise ConfigError(f"port={port}: ports below 1024 need special rights here. Use port={free}.") from None
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise ConfigError(
                f"host={host} is no address of this machine ({error.strerror}). "
                "Use host=127.0.0.1, or host=0.0.0.0 for all of its addresses."
            ) from error
        free = free_port(host, port + 1)
        raise ConfigError(
            f"port={port} on {host} is in use by another program. Use port={free}, which is free."
        ) from None


def free_port(host: str, start: int) -> int:
    """A free port, one of the NEAR from `start` where there is one."""
    for port in (*range(start, min(start + NEAR, 65_536)), 0):
        try:
            return listen(host, port)
        except OSError:
            continue
    raise ConfigError(f"host={host}: this machine has no free port.")


def listen(host: str, port: int) -> int:
    """Take a port for a moment, as the server will; 0 lets the system choose. OSError where it is not to be had."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)
        return int(probe.getsockname()[1])
