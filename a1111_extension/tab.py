"""The Skipstone tab: one page each to try settings, for recipes and masks, a mask's drawing, the last runs, and profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from . import tab_files, tab_mask, tab_profile, tab_runs, tab_try
from .controls import QUIET
from .history import History
from .panel import Panel


def build(history: History, panels: Mapping[str, Panel]) -> list[tuple[Any, str, str]]:
    """The tab for `on_ui_tabs`: (block, title, id).

    Everything is read again when the page is loaded, and when the tab or its page of runs is opened, which the page's script
    does by the button *Refresh*; the runs also when a picture is done.

    Args:
        history: of the runs.
        panels: by tab name; the pages show and set the values of txt2img's.
    """
    with gr.Blocks(analytics_enabled=False) as block:
        with gr.Tabs(elem_id="skipstone_pages"):
            with gr.TabItem("Try", elem_id="skipstone_page_try"):
                settings, read, reads = tab_try.build(panels)
            with gr.TabItem("Recipes and masks", elem_id="skipstone_page_files"):
                files = tab_files.build(panels)
            with gr.TabItem("Mask", elem_id="skipstone_page_mask"):
                mask = tab_mask.build(panels)
            with gr.TabItem("Last runs", elem_id="skipstone_page_runs"):
                runs = tab_runs.build(history)
            with gr.TabItem("Profile", elem_id="skipstone_page_profile"):
                profiles = tab_profile.build(panels)
        refresh = gr.Button("Refresh", elem_id="skipstone_refresh")
        ended = [panel.ended.click for panel in panels.values()]
        for event in (refresh.click, block.load):
            event(fn=reads, inputs=read, outputs=settings, **QUIET)
            for shown, refreshed in (files, mask, profiles):
                event(fn=refreshed, inputs=[], outputs=shown, **QUIET)
        for event in (refresh.click, block.load, *ended):
            event(fn=runs[1], inputs=[], outputs=runs[0], **QUIET)
    return [(block, "Skipstone", "skipstone")]
