"""Benchmarks: this package beside comparable tools and the machine's limits, on the same input, interleaved.

    $ python -m benchmarks                                  # all of them at 150 M parameters, minutes
    $ python -m benchmarks parameters --shape 1b            # one of them at 1B
    $ python -m benchmarks against --checkout ../before     # this checkout beside another one of this package

Each method runs in a process of its own, several times, interleaved with the others. Medians and their ratios are printed and
written as JSON to benchmarks/results/. Only ratios within one run are claims: absolute figures drift with the machine.
"""
