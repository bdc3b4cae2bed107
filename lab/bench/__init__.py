"""Figures: fidelity to the dense run, multiply-adds, and timings beside the peers."""
