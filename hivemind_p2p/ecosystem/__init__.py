"""The hive as what other libraries know: an executor, a joblib backend, a Dask scheduler, a decorator.

None of these libraries is needed, or imported, unless it is used.
"""
