"""How much of the network's work the layers do that merge or prune tokens."""

from __future__ import annotations

from torch import nn

from ..core.engine.report import Report
from ..core.measure.macs import CostProbe


class WorkShare:
    """Counts the multiply-adds of one call of a U-Net.

    Args:
        network: of the pass. Others than U-Nets are not counted.

    Attributes:
        found: share of a whole call's multiply-adds that those layers do without merging, in [0, 1]; None before it is known.
    """

    def __init__(self, network: nn.Module) -> None:
        """Nothing is counted yet."""
        self._network = network
        self._probe: CostProbe | None = None
        self._before = (0, 0)
        self.found: float | None = None

    def begin(self, report: Report) -> None:
        """A call of the network begins.

        Args:
            report: of the pass, which grows during the call.
        """
        if self.found is None and hasattr(self._network, "input_blocks"):
            self._before = _counts(report)
            self._probe = CostProbe(self._network)
            self._probe.__enter__()

    def end(self, report: Report, complete: bool) -> None:
        """The call has ended.

        Args:
            report: of the pass.
            complete: whether it returned a value.
        """
        probe, self._probe = self._probe, None
        if probe is None:
            return
        probe.close()
        dense, done = (now - then for now, then in zip(_counts(report), self._before, strict=True))
        if complete and dense:
            self.found = min(1.0, dense / (probe.macs + dense - done))

    def remove(self) -> None:
        """Take the hooks off the network, wherever the call stopped. It may be called twice."""
        if self._probe is not None:
            self._probe.close()


def _counts(report: Report) -> tuple[int, int]:
    """Multiply-adds of the layers without merging, and as they ran, pair searches apart."""
    return report.macs_dense, report.macs_done - report.macs_search
