"""The manual: the site that `./run docs` builds from README.md, docs/, runbooks/ and, for the reference, from the code.

Floor 5, beside tests and benchmarks: nothing imports it, and it is not in the wheel. Promise: a page of the reference
has no list of its own, so it can't miss what the code has; tests/docs/test_site.py counts.
"""
