# -*- coding: utf-8 -*-
"""Write values as a released KQ writes them, to be read by the KQ of today.

1. Run by hand with a Python that has one of the old releases installed; README.rst beside this file tells how.
2. Each case goes through that release's own ``Queue`` and default serializer; only the sending is replaced.
3. The values end up, base64, in one JSON file beside this one, named after the release, Python and dill.

It runs on Python 2.7 as well, hence the old-fashioned code.
"""

from __future__ import print_function

import base64
import collections
import copy
import datetime
import functools
import io
import json
import operator
import os
import sys

import dill
import kafka
import kq
import kq.version

PYTHON = "%d.%d" % sys.version_info[:2]
TOPIC = "payloads"


class RecordingProducer(kafka.KafkaProducer):
    """A producer that connects to nothing and keeps the last value it was to send."""

    def __init__(self, **config):
        self.config = {"bootstrap_servers": "nowhere:9092"}
        self.value = None

    def send(self, topic, value=None, **options):
        self.value = value

    def flush(self, timeout=None):
        pass

    def close(self, timeout=None, **options):
        pass


def release():
    """Return the installed KQ's version: its place and its spelling moved about."""
    return getattr(kq.version, "__version__", None) or getattr(kq.version, "VERSION", None) or kq.version.version


def make_queue():
    """Return a queue of the installed release, in the form that this release wants."""
    if release().startswith("1."):
        kafka.KafkaProducer = RecordingProducer  # KQ 1.x makes its own
        return kq.Queue(hosts="nowhere:9092", topic=TOPIC, timeout=60)
    return kq.Queue(topic=TOPIC, producer=RecordingProducer(), timeout=60)


def common_cases(queue):
    """Yield what every release could enqueue."""
    yield "function", functools.partial(queue.enqueue, operator.add, 1, 2)
    yield "keywords", functools.partial(queue.enqueue, json.dumps, {"b": 1, "a": [None, True]}, sort_keys=True)
    yield "text", functools.partial(queue.enqueue, json.dumps, u"Z\u00fcrich", ensure_ascii=False)
    yield "builtin_method", functools.partial(queue.enqueue, "a-b".split, "-")
    # compiled here, so that no file's name gets into its code
    yield "lambda", functools.partial(queue.enqueue, eval("lambda x, y=2: x * y"), 21)
    yield "closure", functools.partial(queue.enqueue, eval("(lambda y: lambda x: x * y)(2)"), 21)
    twice = type("Twice", (object,), {"__module__": "__main__", "__call__": eval("lambda self, x: x * self.by")})()
    twice.by = 2
    yield "own_class", functools.partial(queue.enqueue, twice, 21)
    yield "method", functools.partial(queue.enqueue, collections.Counter("abracadabra").most_common, 1)
    inner = kq.Job("inner", 1, TOPIC, operator.add, (3, 4), {}, 5)
    yield "job_in_arguments", functools.partial(queue.enqueue, copy.copy, inner)
    yield "jobs_in_a_list", functools.partial(queue.enqueue, copy.copy, [inner, [inner]])
    if sys.version_info > (3,):
        # Python 2 writes dates as text that is not text
        yield "date_method", functools.partial(queue.enqueue, datetime.date(2018, 6, 4).isoformat)
        yield "callable_instance", functools.partial(queue.enqueue, operator.itemgetter(1), "abc")


def release_cases(queue):
    """Yield what only some releases could enqueue: keys, limits, partitions and jobs of one's own."""
    if hasattr(queue, "enqueue_with_key"):
        yield "key", functools.partial(queue.enqueue_with_key, b"customer-7", operator.mul, 6, 7)
    if hasattr(queue, "using"):
        spec = queue.using(timeout=1.5, key=b"customer-7", partition=3)
        yield "using", functools.partial(spec.enqueue, operator.mul, 6, 7)
        job = kq.Job(id="my-id", func=operator.mul, args=[6, 7], timeout=0.5)
        yield "own_job", functools.partial(queue.enqueue, job)


def values():
    """Yield (name, value) of each case that a supported Python can read."""
    queue = make_queue()
    for cases in (common_cases(queue), release_cases(queue)):
        for name, enqueue in cases:
            enqueue()
            by_value = b"_create_code" in queue.producer.value or b"CodeType" in queue.producer.value
            if not by_value or sys.version_info >= (3, 10):
                yield name, by_value, queue.producer.value


def main():
    """Write the file and say what is in it."""
    found = {"kq": release(), "python": PYTHON, "dill": dill.__version__, "portable": {}, "same_python": {}}
    for name, by_value, value in values():
        found["same_python" if by_value else "portable"][name] = base64.b64encode(value).decode("ascii")
    name = "payloads-kq%(kq)s-python%(python)s-dill%(dill)s.json" % found
    text = json.dumps(found, indent=1, sort_keys=True, separators=(",", ": "))
    with io.open(os.path.join(os.path.dirname(os.path.abspath(__file__)), name), "w", newline="\n") as file:
        file.write(u"%s\n" % text)
    print(name, sorted(found["portable"]), sorted(found["same_python"]))


if __name__ == "__main__":
    main()
