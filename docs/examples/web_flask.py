"""A Flask application that puts jobs on a topic: ``flask --app web_flask run``."""

import os

from flask import Flask, request
from tasks import count_words

import kq

app = Flask(__name__)
#: One for the whole process. It connects at its first job, so it works also where the server forks afterwards.
queue = kq.Queue("texts", hosts=os.environ["KQ_HOSTS"], enqueue_timeout=2)


@app.post("/texts")
def add_text() -> tuple[dict[str, str], int]:
    """Have the words of a text counted later."""
    job = queue.enqueue(count_words, request.form["text"])
    return {"job": job.id}, 202


@app.errorhandler(kq.EnqueueError)
def say_not_now(error: kq.EnqueueError) -> tuple[dict[str, str], int, dict[str, str]]:
    """Tell the client to come again: the job is not on the topic, or nobody knows whether it is."""
    return {"error": "try again later"}, 503, {"Retry-After": "5"}
