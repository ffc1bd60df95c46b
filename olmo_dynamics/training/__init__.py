"""What if we train on from here: a small trainer to be read, its state in one object, its loop on one page.

It imports the model and nothing that measures or plots: whoever wants to watch passes a callback.

    >>> from olmo_dynamics.training.recipe import Recipe
    >>> Recipe(steps=100, warmup_steps=10).learning_rate(5)
    0.0005
"""
