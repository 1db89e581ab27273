"""The training recipe and what surrounds `fit`: batches, checkpoints, live curves, records."""
