"""Plans of a run: the settings of a recipe, bound to the calls of one run and to the blocks of one model."""
