"""`skipstone search`: NSGA-II over DaTo's schedules (arXiv 2501.00375): cache depths, prune ratios, or both with merging.

Both objectives are minimised: the error to the dense run on fixed noises, and the modelled multiply-adds.
"""
