"""The facts of each family that Ai2's trainers write, in one place for all their formats."""
