"""Labelling a view: the run, its record and state, its workers, its writer, its history."""
