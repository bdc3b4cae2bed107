"""Forecasts of a network's output from its earlier outputs: what is forecast, and by which weights."""
