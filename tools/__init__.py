"""For maintainers: benchmarks, the baseline recipe, publishing. Nothing in the package or the notebooks imports this."""
