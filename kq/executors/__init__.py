"""Executors: where jobs run. Alternatives behind one protocol, ``kq.executors.base.Executor``."""
