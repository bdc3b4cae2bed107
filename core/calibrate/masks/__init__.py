"""Mask training: learn from noise alone which block runs at which call (Timestep-aware block masking, arXiv 2603.19939).

Read :mod:`skipstone.core.calibrate.denoiser` for the host's side, and :mod:`.trainer` for the entry point.

In the examples of this room, `model` is a :class:`.masked_model.MaskedModel` of four residual blocks, run in four calls.
"""
