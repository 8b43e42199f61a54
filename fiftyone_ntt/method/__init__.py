"""No Time to Train in the order of the paper, then what the default adds; in numpy and torch only.

Read ``docs/method.md`` beside it: comments name its sections. Begin with ``Matcher.match``. Change only with the parity
tests green (``tests/unit/test_parity.py``) and a row in ``docs/results.md``.
"""
