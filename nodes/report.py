"""The node "Run Report"."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io, ui

from .messages import gain
from .patch import record_of
from .pictures import image, notice
from .records import Record
from .run_plot import run_plot
from .widgets import TOOLS

_NO_RUN = "no run yet: connect the model that the sampler uses, and its latent or picture"


class SkipstoneReport(io.ComfyNode):
    """MODEL and what its sampler made in; the report as text and as a picture out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """A model, and something to wait for."""
        return io.Schema(
            node_id="SkipstoneReport",
            display_name="Run Report",
            category=TOOLS,
            description="Shows what the last run of a model did: which calls ran in full, partly or were forecast, how long "
            "each took, and what was saved.",
            inputs=[
                io.Model.Input("model", tooltip="The model that the sampler uses, from the last Skipstone node."),
                io.AnyType.Input("after", tooltip="The sampler's latent, or the picture: the report is made after it."),
            ],
            outputs=[
                io.String.Output(display_name="report", tooltip="The report, one fact a line."),
                io.Image.Output(display_name="plot", tooltip="A bar for each call, as high as it took time."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, model: Any, after: Any = None) -> io.NodeOutput:
        """Report on the last run; where there was none, text and picture say so.

        Args:
            model: the ModelPatcher.
            after: not used.
        """
        record = record_of(model)
        text = report_text(record) if record else _NO_RUN
        plot = run_plot(record.log, title(record)) if record and record.log.calls else notice(text)
        pictures = image(plot)
        shown = ui.ImageSaveHelper.save_images(pictures, "skipstone_report", io.FolderType.temp, None)
        return io.NodeOutput(text, pictures, ui={"images": shown, "text": [text]})


def title(record: Record) -> str:
    """The gain in one line.

    Args:
        record: of a run with calls.
    """
    working = [report for report in record.reports if not report.idle]
    return gain(working[0], record.log) if working else f"nothing was accelerated, {record.log.seconds:.1f} s"


def report_text(record: Record) -> str:
    """Everything that is known of a run, one fact a line.

    Args:
        record: of the run.
    """
    facts = [line for report in record.reports if report.calls for line in report.lines()]
    return "\n".join([*([title(record)] if record.log.calls else []), *facts, *record.refusals])
