"""A Flask application that puts jobs on a topic: ``flask --app web_flask run``."""

import os

from flask import Flask, request
from tasks import count_words

import kq

app = Flask(__name__)
#: One for the process. It connects at its first job, after the server has forked.
queue = kq.Queue("texts", hosts=os.environ["KQ_HOSTS"], enqueue_timeout=2)


@app.post("/texts")
def add_text() -> tuple[dict[str, str], int]:
    """Have the words of a text counted later."""
    job = queue.enqueue(count_words, request.form["text"])
    return {"job": job.id}, 202


@app.errorhandler(kq.EnqueueError)
def say_not_now(error: kq.EnqueueError) -> tuple[dict[str, str], int, dict[str, str]]:
    """Say so where the job is not on the topic, or may not be."""
    return {"error": "try again later"}, 503, {"Retry-After": "5"}
