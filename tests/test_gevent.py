"""Where gevent has patched the standard library a program can enqueue, and a worker says that it does not run."""

from __future__ import annotations

import jobs
import pytest
from test_enqueue import ids_of, on_topic

pytest.importorskip("gevent")

#: Enqueues by each way, beside another greenlet that counts its turns; prints the ID of each job.
PATCHED = """
import sys
{before}
from gevent import monkey
monkey.patch_all()
import asyncio, gevent, operator
from kafka import KafkaProducer
import kq

hosts, topic = sys.argv[1:]
turns = 0
def tick():
    global turns
    while True:
        turns += 1
        gevent.sleep(0.001)
ticking = gevent.spawn(tick)
own = kq.Queue(topic, hosts=hosts)
injected = kq.Queue(topic, KafkaProducer(bootstrap_servers=hosts))

async def work():
    found = [await own.aenqueue(operator.neg, 1)]
    return found + await own.aenqueue_many([(operator.neg, (n,)) for n in range(100)])

for queue in (own, injected):
    greenlets = [gevent.spawn(queue.enqueue, operator.neg, n) for n in range(20)]
    gevent.joinall(greenlets, timeout=30)
    for job in [greenlet.value for greenlet in greenlets]:
        print("job", job.id)
    for job in queue.enqueue_many((operator.neg, (n,)) for n in range(500)):
        print("job", job.id)
for job in asyncio.run(work()):
    print("job", job.id)
ticking.kill()
own.close()
print("turns", turns > 50)
"""


@pytest.mark.parametrize("before", ["", "import kq"], ids=["patched first", "imported first"])
def test_a_program_under_gevent_enqueues(before: str, topic: str, hosts: str) -> None:
    """From many greenlets, by each way, with either kind of producer; other greenlets go on, and it ends."""
    with jobs.Program(PATCHED.format(before=before), hosts, topic) as program:
        assert program.end() == 0, program.text
    told = [line.split()[1] for line in program.lines if line.startswith("job ")]
    assert len(told) == 2 * 520 + 101
    assert sorted(told) == sorted(ids_of(on_topic(hosts, topic)))
    assert "turns True" in program.lines


WORKER = """
from gevent import monkey
monkey.patch_all()
import sys, kq
try:
    kq.Worker("topic", hosts=sys.argv[1]).start()
except kq.KQError as error:
    print(error)
"""


def test_a_worker_under_gevent_refuses_in_one_line(hosts: str) -> None:
    """It needs threads that run while a job does; the line says where to start it instead."""
    with jobs.Program(WORKER, hosts) as program:
        assert program.end() == 0, program.text
    (line,) = program.lines
    assert "gevent has patched" in line
    assert "kq worker" in line
