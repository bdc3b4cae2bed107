"""ComfyUI's page in a browser: graphs are loaded, queued and looked at as the user sees them, in both of its renderers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hosts.browser import PATIENCE
from hosts.comfyui import OLD, ROOT, ComfyUI, Prompt, Result

CLASSIC, VUE = "classic", "Nodes 2.0"
RENDERERS = (CLASSIC, VUE)
SETTINGS = {
    "Comfy.TutorialCompleted": True, "Comfy.Workflow.ShowMissingModelsWarning": False, "Comfy.Workflow.Persist": True,
    "Comfy.UseNewMenu": "Top", "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False, "LiteGraph.Canvas.MaximumFps": 10,
}  # fmt: skip
"""Nothing that covers the graph, and few frames a second, as there is no graphics card."""

POLLING = 200
"""Milliseconds between two looks at the page."""
OPTIONS = {CLASSIC: ".litecontextmenu .litemenu-entry", VUE: "[role=option]"}
"""Where the options of a widget are listed."""
FOUND = "[data-testid=result-item], .p-autocomplete-option"
"""What the node search lists, in newer and older pages."""

HELPERS = (Path(__file__).parent / "comfy_page.js").read_text()
"""Functions of :class:`Page` in the page: `look`."""


class Page:
    """ComfyUI's page.

    Args:
        page: of Playwright; new.
        host: the server.
        renderer: one of :data:`RENDERERS`.
    """

    def __init__(self, page: Any, host: ComfyUI, renderer: str = CLASSIC) -> None:
        self.page, self.host, self.renderer = page, host, renderer
        self.errors: list[str] = []
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.add_init_script(HELPERS)
        host.post("/settings", {**SETTINGS, "Comfy.VueNodes.Enabled": renderer == VUE})
        page.goto(host.url)
        self._ready()

    def _ready(self) -> None:
        """The page loads a graph by itself at first."""
        self.until(
            "window.app?.graph?.nodes?.length && LiteGraph.registered_node_types.SkipstoneAuto && look.settled()"
        )

    def until(self, condition: str, **given: Any) -> Any:
        """Wait until a value in the page's own language, which knows the names of `given`, is one that counts as true."""
        found = self.page.wait_for_function(f"({{{', '.join(given)}}}) => {condition}", arg=given, polling=POLLING)
        return found.json_value()

    def get(self, expression: str, **given: Any) -> Any:
        """The value of an expression in the page's own language, which knows the names of `given`."""
        return self.page.evaluate(f"async ({{{', '.join(given)}}}) => ({expression})", given)

    def load(self, name: str) -> None:
        """Load a workflow that we ship."""
        self.load_graph(json.loads((ROOT / f"workflows/{name}.json").read_text()))

    def load_graph(self, graph: dict[str, Any]) -> None:
        """Load a graph of the page."""
        self.get("app.loadGraphData(graph)", graph=graph)
        self.until("app.graph.nodes.length === count && look.settled()", count=len(graph["nodes"]))

    def load_prompt(self, prompt: Prompt) -> None:
        """Load a prompt of the API. Its nodes get the ids 1, 2, ... in the order of the prompt."""
        ids = {name: str(number) for number, name in enumerate(prompt, 1)}
        wired = {
            ids[name]: {**one, "inputs": {key: _renamed(value, ids) for key, value in one["inputs"].items()}}
            for name, one in prompt.items()
        }
        self.get("app.loadApiJson(prompt, 'test')", prompt=wired)
        self.until("app.graph.nodes.length === count && look.settled()", count=len(prompt))

    def reload(self) -> None:
        """Load the page again. It opens the last graph by itself."""
        self.page.wait_for_timeout(2000)  # the page saves its draft after a while
        self.page.reload()
        self._ready()

    def set(self, node: int, **widgets: Any) -> None:
        """Set widgets of a node, as a user does."""
        self.get("look.set(node, widgets)", node=node, widgets=widgets)

    def values(self, node: int) -> dict[str, Any]:
        """What a node's widgets would send."""
        return self.get("Object.fromEntries(look.widgets(node).map((w) => [w.name, w.value]))", node=node)

    def queue(self) -> str:
        """Press Run; the prompt's id, or "" if the server rejects it."""
        return self.get("look.queue()")

    def run(self) -> Result:
        """Press Run, and wait for the end."""
        return self.host.result(self.queue())

    def says(self, node: int, pattern: str) -> list[str]:
        """Wait until a node's report has a line that matches, and none of its text is cut off.

        Its lines, as they are broken on the screen.
        """
        return self.until("look.says(node, pattern)", node=node, pattern=pattern)

    def choose(self, node: int, widget: str, option: str) -> None:
        """Choose an option of a widget with the mouse."""
        self.page.mouse.click(*self.get("look.place(node, widget)", node=node, widget=widget))
        self.page.locator(OPTIONS[self.renderer]).get_by_text(option, exact=True).click()

    def wipe(self, node: int, share: float) -> float:
        """Move the mouse to a share of the wipe's width; percent of the left picture that is shown."""
        left, top, right, bottom = self.get("look.wipe(node)", node=node)
        self.page.mouse.move(left + share * (right - left), (top + bottom) / 2)
        return self.get("look.wiped(node)", node=node)

    def search(self, words: str) -> list[str]:
        """What the node search lists for these words."""
        self.get("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        self.page.keyboard.type(words)
        self.page.wait_for_timeout(800)  # it waits for the end of the word
        found = self.page.locator(FOUND).all_inner_texts()
        self.page.keyboard.press("Escape")
        return [text.strip().splitlines()[0] for text in found if text.strip()]

    def dismiss(self) -> None:
        """Close what the page says of an error."""
        for _ in range(2):
            self.page.keyboard.press("Escape")

    def press(self, nodes: Sequence[int], key: str) -> None:
        """Select nodes, and press a key."""
        self.get("look.select(nodes)", nodes=list(nodes))
        self.page.keyboard.press(key)
        self.until("look.settled()")

    def fit(self) -> None:
        """Bring the whole graph into view."""
        self.get("look.fit()")
        self.page.wait_for_timeout(300)  # until it is drawn


@contextmanager
def opened(browser: Any, host: ComfyUI, renderer: str) -> Iterator[Page]:
    """A page that was just opened. What our scripts raise in it is an error in the end.

    Args:
        browser: of Playwright.
        host: the server.
        renderer: one of :data:`RENDERERS`; tests are skipped in versions without it.
    """
    if renderer == VUE and host.name in OLD:
        pytest.skip("Nodes 2.0 came later")
    context = browser.contexts[0] if browser.contexts else browser.new_context(viewport={"width": 1400, "height": 800})
    blank = context.new_page()
    blank.goto(f"{host.url}/system_stats")
    blank.evaluate("localStorage.clear()")  # the graphs of earlier pages; their files stay in the browser's cache
    page = Page(blank, host, renderer)
    yield page
    blank.close()
    assert not [error for error in page.errors if "skipstone" in error]


def _renamed(value: Any, ids: dict[str, str]) -> Any:
    linked = isinstance(value, list) and len(value) == 2 and value[0] in ids
    return [ids[value[0]], value[1]] if linked else value
