import os

from kq import Queue

queue = Queue("reports", hosts=os.environ.get("KQ_HOSTS", "127.0.0.1:9092"))


@queue.job(timeout=60)
def double(number: int) -> int:
    return 2 * number
