"""The training recipe and what goes around `model.fit`: batches, checkpoints, live curves, run records."""
