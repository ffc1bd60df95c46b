"""`python -m olmo_dynamics` is `olmo-dyn`."""

from olmo_dynamics.cli import start

if __name__ == "__main__":
    start()
