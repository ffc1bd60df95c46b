"""Trainings that differ in their seed alone, drawn as one."""
