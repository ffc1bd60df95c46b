"""`python -m olmo_dynamics` is `olmo-dyn`."""

from olmo_dynamics.cli import main

if __name__ == "__main__":
    main()
