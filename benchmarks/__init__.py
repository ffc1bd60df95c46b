"""Side-by-side measurements: us, the peer and the machine's limit, on the same input, interleaved, in one command.

    $ python -m benchmarks                     # P1 and P2 at 150 M parameters, minutes
    $ python -m benchmarks --shape 1b p1       # one of them at 1B

Each method runs in a process of its own, several times, the methods taking turns; the medians and their ratios are printed
and written as JSON to benchmarks/results/. Only ratios within one run are claims: absolute figures drift with the machine.
"""
