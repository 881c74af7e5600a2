"""A worker whose jobs may use ``flask.current_app``."""

import os
from contextlib import AbstractContextManager

import kq


def in_app_context() -> AbstractContextManager[object]:
    """Return the context of the application; called in the child, around each job."""
    from web_flask import app

    return app.app_context()


if __name__ == "__main__":
    executor = kq.ProcessExecutor(around=in_app_context)
    kq.Worker("texts", hosts=os.environ["KQ_HOSTS"], executor=executor, concurrency=4).start()
