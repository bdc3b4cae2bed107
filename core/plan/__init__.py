"""What happens at which call: a recipe bound to the calls of one run."""
