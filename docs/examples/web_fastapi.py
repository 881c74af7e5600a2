"""A FastAPI application that puts jobs on a topic: ``uvicorn web_fastapi:app``."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from tasks import count_words

import kq


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Have one queue for the process; it connects at its first job."""
    with kq.Queue("texts", hosts=os.environ["KQ_HOSTS"], enqueue_timeout=2) as queue:
        app.state.queue = queue
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/texts", status_code=202)
async def add_text(text: str, request: Request) -> dict[str, str]:
    """Have the words of a text counted later."""
    job = await request.app.state.queue.aenqueue(count_words, text)
    return {"job": job.id}


@app.exception_handler(kq.EnqueueError)
async def say_not_now(request: Request, error: kq.EnqueueError) -> JSONResponse:
    """Say so where the job is not on the topic, or may not be."""
    return JSONResponse({"error": "try again later"}, 503, {"Retry-After": "5"})
