"""The node "Run Report"."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_api.latest import io, ui

from ..core.engine.report import Report
from ..core.engine.run_log import gain
from ..core.engine.run_plot import run_plot
from ..core.recipe.recipe import Recipe
from .patch import recipe_on, record_of
from .pictures import image, notice
from .records import Record
from .whole_calls import WholeCallMethod
from .widgets import RECIPE, TOOLS, named_too, writes_on_itself

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
                io.String.Output(display_name="report", tooltip="The report, one fact per line."),
                io.Image.Output(
                    display_name="plot", tooltip="A bar for each call; its height is the time that the call took."
                ),
                io.Float.Output(display_name="seconds", tooltip="How long the run took."),
                io.Float.Output(
                    display_name="seconds_in_full",
                    tooltip="About how long it would have taken in full; 0 where no call ran in full.",
                ),
                RECIPE.Output(
                    display_name="recipe",
                    tooltip="What ran, for Save Recipe: the calls that Skipstone chose in this run.",
                ),
            ],
            **writes_on_itself(),
            is_output_node=True,
            **named_too("report", "speedup", "plot", "statistics", "skipstone"),
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
        seconds, in_full = (record.log.seconds, record.log.seconds_in_full) if record else (0.0, 0.0)
        recipe = ran_recipe(recipe_on(model), record.reports if record else ())
        return io.NodeOutput(text, pictures, seconds, in_full, recipe, ui={"images": shown, "text": [text]})


def title(record: Record) -> str:
    """The gain in one line.

    Args:
        record: of a run with calls.
    """
    working = [report for report in record.reports if not report.idle]
    return gain(working[0], record.log) if working else f"nothing was accelerated, {record.log.seconds:.1f} s"


def ran_recipe(asked: Recipe, reports: Sequence[Report]) -> Recipe:
    """What ran: the asked recipe, with the calls that were chosen in the run in place of how they were to be chosen.

    Args:
        asked: the recipe on the model.
        reports: of the run; empty before it.
    """
    chosen = next((report for report in reports if report.chosen), None)
    if chosen is None:
        return asked
    others = [method for method in asked.methods if not isinstance(method, WholeCallMethod)]
    return Recipe.of([*others, *Recipe.of_plain([chosen.chosen, *chosen.beside]).methods])


def report_text(record: Record) -> str:
    """Everything that is known of a run, one fact a line.

    Args:
        record: of the run.
    """
    facts = [line for report in record.reports if report.calls for line in report.lines()]
    return "\n".join([*([title(record)] if record.log.calls else []), *facts, *record.refusals])
