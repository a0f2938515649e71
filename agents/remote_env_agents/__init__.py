"""Training, evaluation and fleets. Nothing here yet: the environments come first."""
