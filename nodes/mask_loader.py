"""The node "Load Block Mask"."""

from __future__ import annotations

from comfy_api.latest import io

from ..core.errors import SkipstoneError
from ..core.recipe.block_skip import BlockSkip
from ..core.recipe.mask import Mask
from .files import MASK_FILES
from .masks import summary
from .messages import UNACCELERATED, show_on_node, warn
from .widgets import MASK, MASKS, writes_on_itself


class SkipstoneMaskLoader(io.ComfyNode):
    """A mask file in, mask out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """One list of files."""
        return io.Schema(
            node_id="SkipstoneMaskLoader",
            display_name="Load Block Mask",
            category=MASKS,
            description="Loads a mask file: which blocks of one kind of model run at which step.",
            inputs=[MASK_FILES.input(" It is scaled to your number of steps.")],
            outputs=[MASK.Output(display_name="mask", tooltip="The mask. It fits the kind of model it was made for.")],
            **writes_on_itself(),
        )

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        """Load the mask. For a file that is not a mask, the node says so and its output is None."""
        try:
            mask = Mask.load(MASK_FILES.path(file))
        except SkipstoneError as error:
            warn(f"{error}; {UNACCELERATED}", cls.hidden.unique_id)
            return io.NodeOutput(None)
        show_on_node(summary(mask), cls.hidden.unique_id)
        return io.NodeOutput(BlockSkip(mask=mask))

    @classmethod
    def fingerprint_inputs(cls, file: str) -> float:
        """When the file was written: a changed file is read again."""
        return MASK_FILES.changed(file)
