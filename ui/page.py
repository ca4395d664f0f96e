"""The page over saved runs: built from their folders alone, served on one port, nothing fetched elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import gradio as gr

from tasks.run import Run
from ui.batch import FileTab
from ui.compare_tab import CompareTab
from ui.markup import STYLE
from ui.messages import as_message
from ui.ports import address, require_port
from ui.rank_tab import RankTab
from ui.renderers import require_shown
from ui.run_tab import RunTab
from ui.search_tab import SearchTab
from ui.shelf import Shelf
from ui.tab import Tab
from ui.text_tab import TextTab
from ui.train_tab import TrainTab
from ui.training import Trainings
from ui.uploads import UPLOADS

#: Uploads and results are looked at every hour and deleted after a day; all of them when the page closes.
CLEAN = (3600, 86_400)
#: Of an upload. A CSV of a million short texts has about 100 MB.
MAX_FILE_SIZE = "500mb"
#: The system's own fonts: Gradio's are files it would have to send, and a web font would ask another server.
FONT = ("system-ui", "sans-serif")
MONO = ("ui-monospace", "Consolas", "monospace")
#: Gradio's orange under white letters and its grey hints have less contrast than WCAG AA asks for (4.5).
HUE = "blue"
GREY, GREY_DARK = "*neutral_500", "*neutral_400"
PRESSED, PRESSED_HOVER = "*primary_600", "*primary_700"
#: In the order of the page.
TABS: tuple[type[Tab], ...] = (TextTab, SearchTab, RankTab, FileTab, RunTab, CompareTab)
#: How a tab is hidden. With False, Gradio 6.31 takes its content away and leaves it in the row of tabs.
GONE: Literal["hidden"] = "hidden"
EMPTY = "# modernbert\nThere is no saved run yet: train one."


def build(shelf: Shelf, trainings: Trainings | None = None) -> gr.Blocks:
    """The page of the runs on a shelf; `UPLOADS` is taken.

    Args:
        trainings: how to start one; None leaves that tab out.

    Raises:
        ConfigError: the first run cannot be loaded, or the page has no renderer for what its task gives.
    """
    name = shelf.names[0] if shelf.names else None
    run = None if name is None else shelf.get(name)
    if run is not None:
        require_shown(run)
    title = "modernbert" if name is None else f"{name} · modernbert"
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=CLEAN) as page:
        chosen = gr.Dropdown(
            shelf.choices(),
            value=name,
            label="Run",
            allow_custom_value=True,  # what is not among the choices gets our message, not Gradio's
            visible=len(shelf.names) > 1 or trainings is not None,
        )
        about = gr.Markdown(EMPTY if run is None else heading(name, run))
        tabs, current = [kind(shelf) for kind in TABS], gr.State(None)
        # Wrapped: what Gradio hides in a menu is no tab to a screen reader.
        with gr.Tabs(overflow_behavior="wrap") as frame:
            panes = []
            for tab in tabs:
                visible = run is not None and tab.serves(run)
                with gr.Tab(tab.title, id=tab.title, visible=visible or GONE) as pane:
                    tab.build(run, chosen)
                panes.append(pane)
            if trainings is not None:
                with gr.Tab(TrainTab.title, id=TrainTab.title):
                    TrainTab(shelf, trainings).build(page, chosen, frame, current)

        def select(name: str | None, title: str | None) -> list[Any]:
            """Everything on the page for another run; of a tab that it has no use for, its first one."""
            with as_message():
                run = shelf.get(name)
                require_shown(run)
                changes = [change for tab in tabs for change in tab.updates(run)]
            served = [tab.title for tab in tabs if tab.serves(run)]
            gone = {tab.title for tab in tabs} - set(served)
            title = served[0] if title is None or title in gone else title
            seen = [gr.update(visible=tab.title in served or GONE) for tab in tabs]
            return [heading(name, run), gr.Tabs(selected=title), title, *seen, *changes]

        parts = [part for tab in tabs for part in tab.parts.values()]
        outputs = [about, frame, current, *panes, *parts]
        chosen.change(select, [chosen, current], outputs, api_name="select", show_progress="minimal")
        frame.select(opened, None, current, api_visibility="private", show_progress="hidden")
        # A run may have been trained since the page was built.
        page.load(lambda: gr.update(choices=shelf.choices()), None, chosen, api_visibility="private")
    return page


def opened(event: gr.SelectData) -> str:
    """The title of the tab that a person opened."""
    return str(event.value)


def heading(name: str | None, run: Run) -> str:
    """The run's name and what it is, in two lines."""
    encoder = run.info.get("encoder", {}).get("source")
    data = run.info.get("data", {}).get("train")
    what = run.schema.describe()
    about = [what[:1].upper() + what[1:]]
    if encoder:
        about.append(f"encoder {encoder}")
    if data:
        about.append(f"trained on {data['rows']:,} rows")
    return f"# {name}\n{' · '.join(about)}"


@contextmanager
def serving(shelf: Shelf, host: str, port: int, trainings: Trainings | None = None) -> Iterator[str]:
    """Serve the page of a shelf while the context is open; gives its address.

    Only what is uploaded to it and what it computed can be downloaded from it. A training that is under way at the end
    is stopped.

    Raises:
        ConfigError: host or port cannot be used, or the page cannot show the first run.
    """
    require_port(host, port)
    UPLOADS.take()
    try:
        with launched(build(shelf, trainings), host, port):
            yield address(host, port)
    finally:
        if trainings is not None:
            trainings.close()
        UPLOADS.give_back()


@contextmanager
def launched(page: gr.Blocks, host: str, port: int) -> Iterator[None]:
    """The page's own server, in a thread."""
    try:
        page.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            inbrowser=False,
            max_file_size=MAX_FILE_SIZE,
            **settings(),
        )
    except OSError:
        require_port(host, port)  # taken since the first look
        raise
    try:
        yield
    finally:
        page.close(verbose=False)


def settings() -> dict[str, Any]:
    """How every page looks, and what none of them does: report, share, keep a history, serve a file of this machine."""
    return {
        "theme": theme(),
        "css": STYLE,
        "footer_links": ["settings"],
        "run_history": False,
        "enable_monitoring": False,
        "allowed_paths": [],
        "ssr_mode": False,
        "pwa": False,
        "mcp_server": False,
    }


def theme() -> gr.Theme:
    """Gradio's own theme with fonts and contrast changed."""
    changed = gr.themes.Default(primary_hue=HUE, secondary_hue=HUE, font=FONT, font_mono=MONO)
    return changed.set(
        block_info_text_color=GREY,
        block_info_text_color_dark=GREY_DARK,
        body_text_color_subdued=GREY,
        body_text_color_subdued_dark=GREY_DARK,
        button_primary_background_fill=PRESSED,
        button_primary_background_fill_hover=PRESSED_HOVER,
        button_primary_background_fill_dark=PRESSED,
    )
