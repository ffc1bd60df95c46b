"""Tables of the inside of a model: numbers per revision, values of uniform attention, classes of tokens.

>>> import olmo_dynamics as od
>>> from olmo_dynamics.frames import per_revision
>>> per_revision(od.open_store("run.zarr"), "gradients")  # doctest: +SKIP
"""
