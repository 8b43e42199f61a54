"""Labelling a view: the run, its record and state, its workers, its writer, its history.

Begin with ``segment``. Does not know how matching works: that is ``method``. ``docs/reliability.md`` has the promises.
"""
