"""What maintainers run: publish, report, the baseline and the benchmarks.

Nothing in the package or the notebooks imports it.
"""
