"""Logs of training runs, read from the files of their trainers onto the axis of our tables."""
