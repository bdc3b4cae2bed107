"""Mask training: which block runs at which call, learned from noise alone (Timestep-aware block masking, arXiv 2603.19939).

Read :mod:`.denoiser` for what a host gives, :mod:`.trainer` for what it calls.
"""
