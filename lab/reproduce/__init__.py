"""`skipstone reproduce`: the papers' own experiments, on the models that the papers used."""
