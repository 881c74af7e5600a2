from tasks import count_words, nap

from kq import Queue

with Queue("tutorial", hosts="127.0.0.1:9092") as queue:
    job = queue.enqueue(count_words, "the cat sat on the mat")
    queue.using(timeout=0.5).enqueue(nap, 60)
    print(f"Job {job.id} is on topic {job.topic}.")
