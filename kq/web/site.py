"""The site: addresses, and what answers there.

1. A GET is a page: its data in a dictionary, made in a thread, and its template. Nothing changes by it.
2. A POST is an action. It is refused, asked about, or done; then the browser goes back to where it came from.
3. ``/events`` tells a page that there is news. The page fetches itself again: without it, it works all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import jinja2
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from kq.errors import ArgumentError, KQError
from kq.web.guard import TOKEN, Guard, token_of, why_refused
from kq.web.pages import Gone, Pages
from kq.web.settings import Settings
from kq.web.single import SingleReader
from kq.web.spark import spark
from kq.web.steering import Action, Steering, action_of
from kq.web.tasks import Task, Tasks
from kq.web.watcher import Watcher
from kq.web.words import FILTERS

__all__ = ["Site"]

_HERE = Path(__file__).resolve().parent
#: Bytes of a form, and its fields.
_LARGEST, _MOST_FIELDS = 262_144, 2_000
#: Streams of events at once; seconds between two words of one where there is no news, and between looks for its end.
_MOST_STREAMS, _ALIVE_EVERY, _LOOK_EVERY = 200, 15.0, 1.0


class Site:
    """The dashboard as an ASGI application, ``app``.

    :param is_ending: Whether the server is about to end: streams end then.
    """

    def __init__(self, settings: Settings, is_ending: Callable[[], bool] = lambda: False) -> None:
        self._settings = settings
        self._is_ending = is_ending
        self.watcher = Watcher(settings)
        self._reader = SingleReader(settings.hosts, settings.config)
        self._pages = Pages(settings, self.watcher, self._reader)
        self._steering = Steering(settings)
        self._tasks = Tasks()
        #: Of each stream of events: what wakes it.
        self._streams: set[asyncio.Event] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        loader = jinja2.FileSystemLoader(_HERE / "templates")
        self._env = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        self._env.filters.update(FILTERS)
        self._env.globals.update(spark=spark, read_only=settings.read_only, has_store=settings.store is not None)
        self.app = self._make_app()

    def _make_app(self) -> Guard:
        pages = self._pages
        routes = [
            Route("/", self._page("overview.html", pages.overview)),
            Route("/topics/{topic}", self._page("topic.html", pages.topic, "topic")),
            Route("/workers", self._page("workers.html", pages.workers)),
            Route("/jobs", self._jobs),
            Route("/jobs/{name:path}", self._page("job.html", pages.job, "name")),
            Route("/letters", self._page("letters.html", pages.letters)),
            Route("/letters/{topic}/{name:path}", self._page("letter.html", pages.letter, "topic", "name")),
            Route("/actions/{name}", self._act, methods=["POST"]),
            Route("/events", self._events),
            Mount("/static", StaticFiles(directory=_HERE / "static")),
        ]
        handlers: dict[Any, Any] = {HTTPException: self._wrong, Exception: self._failed}
        # before all of it: what fails is answered with the same headers
        return Guard(Starlette(routes=routes, lifespan=self._lifespan, exception_handlers=handlers), self._settings)

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        loop = self._loop = asyncio.get_running_loop()
        self.watcher.listen(lambda: loop.is_closed() or loop.call_soon_threadsafe(self._wake))
        self.watcher.start()
        try:
            yield
        finally:
            await run_in_threadpool(self._close)

    def _close(self) -> None:
        self._tasks.close()
        self.watcher.close()
        self._reader.close()
        self._steering.close()

    # -- pages ---------------------------------------------------------------------------------------------------------

    def _page(self, template: str, make: Callable[..., dict[str, Any]], *names: str) -> Callable[[Request], Response]:
        """Return what answers with a page; it runs in a thread."""

        def answer(request: Request) -> Response:
            try:
                shown = make(request.query_params, *(request.path_params[name] for name in names))
            except Gone as gone:
                return self._say(request, 404, "Not here", str(gone))
            except KQError as error:
                return self._say(request, 503, "That could not be read", str(error))
            return self._render(request, template, shown)

        return answer

    def _jobs(self, request: Request) -> Response:
        name = request.query_params.get("id", "").strip()
        if name:  # somebody looks for one job
            return RedirectResponse(f"/jobs/{quote(name, safe='')}", 303)
        return self._page("jobs.html", self._pages.jobs)(request)

    def _render(self, request: Request, template: str, shown: dict[str, Any], status: int = 200) -> HTMLResponse:
        said = self._tasks.get(request.query_params.get("said", ""))
        common = {"token": token_of(request), "token_field": TOKEN, "said": said, "path": request.url.path}
        back = _without_said(request)
        return HTMLResponse(self._env.get_template(template).render({**common, "back": back, **shown}), status)

    def _say(self, request: Request, status: int, title: str, text: str) -> HTMLResponse:
        shown = {"title": title, "text": text, "look": self.watcher.snapshot}
        return self._render(request, "message.html", shown, status)

    def _wrong(self, request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return self._say(request, 404, "Not here", "There is no page at this address.")
        return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)

    def _failed(self, request: Request, error: Exception) -> Response:
        return PlainTextResponse("This page failed; the log says why.\n", 500)

    # -- actions -------------------------------------------------------------------------------------------------------

    async def _act(self, request: Request) -> Response:
        fields = await _form_of(request)
        refused = "The dashboard is read-only." if self._settings.read_only else why_refused(request, fields)
        if refused is not None:
            return self._say(request, 403, "Refused", refused)
        try:
            action = action_of(request.path_params["name"], fields, time.time())
            if action.topic not in self.watcher.snapshot.topics:
                raise ArgumentError(f"topic {action.topic} is not among those that are shown")
        except (ArgumentError, ValueError) as error:
            return self._say(request, 400, "That cannot be done", f"{error}.")
        if action.question is not None and fields.get("sure") != ["yes"]:
            return self._ask(request, action, fields)
        task = await run_in_threadpool(self._tasks.begin, action.title, partial(self._perform, action))
        back = _local((fields.get("back") or ["/"])[0])
        return RedirectResponse(f"{back}{'&' if '?' in back else '?'}{urlencode({'said': task.id})}", 303)

    def _perform(self, action: Action, task: Task) -> str:
        words = self._steering.perform(action, task)
        self.watcher.refresh()
        return words

    def _ask(self, request: Request, action: Action, fields: dict[str, list[str]]) -> Response:
        kept = [(name, value) for name, values in fields.items() if name != TOKEN for value in values]
        if action.until is not None and "until" not in fields:
            kept.append(("until", str(action.until)))
        back = _local((fields.get("back") or ["/"])[0])
        shown = {"action": action, "kept": kept, "back": back, "look": self.watcher.snapshot}
        return self._render(request, "confirm.html", shown)

    # -- events --------------------------------------------------------------------------------------------------------

    async def _events(self, request: Request) -> Response:
        if len(self._streams) >= _MOST_STREAMS:
            return PlainTextResponse("Too many pages are open.\n", 503)
        return StreamingResponse(self._stream(request), media_type="text/event-stream")

    async def _stream(self, request: Request) -> AsyncIterator[str]:
        news = asyncio.Event()
        self._streams.add(news)
        try:
            yield f"retry: 2000\nevent: look\ndata: {self.watcher.snapshot.number}\n\n"
            spoken = time.monotonic()
            while not self._is_ending() and not await request.is_disconnected():
                try:
                    await asyncio.wait_for(news.wait(), _LOOK_EVERY)
                except asyncio.TimeoutError:
                    if time.monotonic() - spoken < _ALIVE_EVERY:
                        continue
                    yield ": nothing new\n\n"
                else:
                    news.clear()
                    yield f"event: look\ndata: {self.watcher.snapshot.number}\n\n"
                spoken = time.monotonic()
        finally:
            self._streams.discard(news)

    def _wake(self) -> None:
        for news in self._streams:
            news.set()


async def _form_of(request: Request) -> dict[str, list[str]]:
    """Return the fields of a form; none where it is too large, or is none."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST:
            return {}
    try:
        return parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        return {}


def _local(back: str) -> str:
    """Return an address if it is one of this site, else that of the first page."""
    is_local = back.startswith("/") and not back.startswith("//") and back.isascii() and back.isprintable()
    return back if is_local and "\\" not in back and "#" not in back else "/"


def _without_said(request: Request) -> str:
    """Return the address of a page as it was asked for, without what was said there."""
    others = [(name, value) for name, value in request.query_params.multi_items() if name != "said"]
    path = request.scope.get("raw_path", b"/").decode("ascii", "replace").partition("?")[0]
    return f"{path}?{urlencode(others)}" if others else path
