"""Training, from scratch or from a published checkpoint: a small trainer, its state in one object, its loop on one page.

It imports the model and nothing that measures or plots: a monitor is passed as a callback.

    >>> from olmo_dynamics.training.recipe import Recipe
    >>> Recipe(steps=100, warmup_steps=10).learning_rate(5)
    0.0005
"""
