"""Commit metadata: what was written is read, it always fits, and nothing foreign or damaged is ever believed."""

from __future__ import annotations

import base64
import random
import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kq.consuming.metadata import CAREFUL_STARTS, METADATA_LIMIT, Progress, View, decode, encode
from kq.consuming.tracker import Tracker, reopen

TOPIC = UUID("6f2c7f3e-55a1-4d0b-9d4e-0d1c58a3b7e1")
OTHER_TOPIC = UUID("00000000-0000-0000-0000-000000000001")
ROOMY = 10**6

OFFSETS = st.integers(0, 300) | st.integers(0, 2**62)
GAPS = st.integers(1, 3) | st.integers(1, 2**21)
#: The alphabet of the metadata, and what is not in it.
CHARACTERS = st.sampled_from("ABkq1.-_+/= \n\0é\ud800😀") | st.characters()


@st.composite
def views(draw: st.DrawFn, most: int = 60) -> View:
    """Draw a view as a tracker may give it: mostly the watermark itself is the first that is incomplete."""
    watermark = draw(OFFSETS)
    offsets = [watermark]
    for gap in draw(st.lists(GAPS, max_size=most)):
        offsets.append(offsets[-1] + gap)
    top = offsets[-1] if len(offsets) > 1 else watermark
    incomplete = tuple(offsets[draw(st.sampled_from([0, 0, 1])) : -1]) if top > watermark else ()
    running = tuple(draw(st.permutations(offsets)))[: draw(st.integers(0, len(offsets)))]
    counted = draw(st.lists(st.sampled_from(offsets), unique=True, max_size=5))
    deliveries = tuple((offset, draw(st.integers(1, 200))) for offset in sorted(counted))
    return View(watermark, top, incomplete, running, deliveries, draw(st.integers(0, 2000)))


def expected(view: View, *, alive: bool) -> Progress:
    """Return what must be read of a view: what ran when its worker died is counted."""
    counts = dict(view.deliveries)
    for offset in view.running if alive else ():
        counts[offset] = counts.get(offset, 0) + 1
    careful = CAREFUL_STARTS if alive else view.careful
    deliveries = tuple(sorted(counts.items()))
    return Progress(view.watermark, view.top, frozenset(view.incomplete), deliveries, alive, False, careful)


def claims_done(progress: Progress, offset: int) -> bool:
    return offset < progress.watermark or (offset < progress.top and offset not in progress.incomplete)


def sealed(body: bytes, watermark: int) -> str:
    """Return metadata with any body, put together by the letter of the format."""
    crc = zlib.crc32(struct.pack(">q", watermark) + body)
    return "kq1." + base64.urlsafe_b64encode(struct.pack(">I", crc) + body).rstrip(b"=").decode()


@given(views(), st.booleans(), st.sampled_from([TOPIC, None]), st.sampled_from([TOPIC, None]))
def test_what_was_written_is_read(view: View, alive: bool, writer: UUID | None, reader: UUID | None) -> None:
    """All of a view comes back; what runs while a worker is alive comes back as counts; a topic id may be unknown."""
    text = encode(view, writer, alive=alive, limit=ROOMY)
    assert decode(text, view.watermark, reader) == expected(view, alive=alive)


@given(views())
def test_an_epoch_opens_with_what_was_committed(view: View) -> None:
    """``reopen``, and a tracker that is told the same, give the view that was written, and its next commit says so."""
    progress = decode(encode(view, TOPIC, alive=False, limit=ROOMY), view.watermark, TOPIC)
    again = reopen(progress)
    assert again == view._replace(running=())
    tracker = Tracker()
    tracker.assign(0, 1, TOPIC, progress)
    assert tracker.view(0) == again
    assert decode(encode(again, TOPIC, alive=False, limit=ROOMY), view.watermark, TOPIC) == progress


def test_the_format_is_the_documented_one() -> None:
    """A commit is read by workers of other versions: the letters are fixed."""
    view = View(10, 500, (10, 11, 300), (300, 11), ((11, 2), (300, 1)), 7)
    body = bytes([1, 7, 2, 1, 2, 0xA1, 0x02, 1, 2, 1, 0xA1, 0x02, 0xEA, 0x03, 0, 1, 0xA1, 0x02])
    assert encode(view, TOPIC, alive=True) == sealed(TOPIC.bytes + body, 10)
    assert encode(View(0), None, alive=False) == "kq1.C1TFJgAAAAAAAAAAAAAAAAAAAAAAAAAAAA"


def assert_fits(view: View, text: str, limit: int, *, alive: bool) -> None:
    """Assert that there is no character too many, and what had to be left out is taken for not done."""
    assert len(text) <= limit
    progress = decode(text, view.watermark, TOPIC)
    assert (progress.watermark, progress.foreign_topic) == (view.watermark, False)
    assert progress.top <= max(view.top, view.watermark)
    assert [offset for offset in view.incomplete if claims_done(progress, offset)] == []
    assert set(progress.deliveries) <= set(expected(view, alive=alive).deliveries) | set(view.deliveries)


@given(views(), st.booleans(), st.data())
@settings(max_examples=300)
@example(View(0, 2, (0,), (0,), (), 0), True, None)
def test_it_fits_and_claims_nothing_that_is_not_done(view: View, alive: bool, data: st.DataObject | None) -> None:
    """In any room, from none to enough."""
    complete = len(encode(view, TOPIC, alive=alive, limit=ROOMY))
    limit = data.draw(st.integers(0, complete + 1)) if data else 40
    assert_fits(view, encode(view, TOPIC, alive=alive, limit=limit), limit, alive=alive)
    assert_fits(view, encode(view, TOPIC, alive=alive), METADATA_LIMIT, alive=alive)


@pytest.mark.parametrize("gap", [1, 130, 20_000])
@pytest.mark.parametrize("first", [0, 5, 10**6])
def test_each_room_is_used_to_the_full(gap: int, first: int) -> None:
    """Limit by limit: it fits, a larger room never tells less, and what is cut is less than what fits twice."""
    incomplete = tuple(100 + first + gap * n for n in range(100))
    view = View(100, incomplete[-1] + gap, incomplete, incomplete[:3], ((incomplete[0], 2),))
    complete = encode(view, TOPIC, alive=True, limit=ROOMY)
    top = 0
    for limit in range(len(complete) + 2):
        text = encode(view, TOPIC, alive=True, limit=limit)
        assert_fits(view, text, limit, alive=True)
        is_whole = text == complete
        assert is_whole == (limit >= len(complete))
        if limit > 70:  # all but the done-map has room
            assert decode(text, 100, TOPIC).top >= top
            top = decode(text, 100, TOPIC).top
            assert is_whole or len(text) > limit - 10


@given(views(), st.integers(40, 60))
def test_the_topic_id_is_the_last_to_go(view: View, limit: int) -> None:
    """Where hardly anything fits, it is still seen that an offset belongs to another topic."""
    text = encode(view, TOPIC, alive=True, limit=limit)
    assert decode(text, view.watermark, OTHER_TOPIC) == Progress(view.watermark, foreign_topic=True)
    assert decode(text, view.watermark, TOPIC).unclean


def test_more_runs_than_fit_do_not_cost_the_topic_id() -> None:
    """Five thousand jobs at once are too many to list; the counts are kept instead."""
    view = View(0, 10_000, tuple(range(0, 10_000, 2)), tuple(range(0, 10_000, 2)), ((0, 2),))
    text = encode(view, TOPIC, alive=True)
    assert len(text) <= METADATA_LIMIT
    progress = decode(text, 0, TOPIC)
    assert (progress.deliveries, progress.unclean) == (((0, 2),), True)
    assert progress.top > 5000


@pytest.mark.parametrize("base", [0, 10**6, 2**62])
def test_a_thousand_incompletes_over_a_hundred_thousand_offsets_fit(base: int) -> None:
    """They take about 1,750 characters of 4,096, wherever in a log they are."""
    for seed in range(5):
        spread = random.Random(seed).sample(range(1, 100_000), 999)
        incomplete = tuple(base + offset for offset in sorted([0, *spread]))
        view = View(base, base + 100_000, incomplete)
        text = encode(view, TOPIC, alive=True)
        assert 1700 <= len(text) <= 1800
        assert decode(text, base, TOPIC) == expected(view, alive=True)


def test_hours_behind_one_message_cost_a_few_characters() -> None:
    """One message is not done, a billion behind it are."""
    text = encode(View(2**62, 2**62 + 10**9, (2**62,)), TOPIC, alive=True)
    assert len(text) < 60
    assert decode(text, 2**62, TOPIC).top == 2**62 + 10**9


@given(views(most=12), st.booleans(), st.data())
@settings(max_examples=300)
def test_a_changed_character_tells_nothing(view: View, alive: bool, data: st.DataObject) -> None:
    """Whatever any one character becomes, the metadata says what it said before, or nothing at all."""
    text = encode(view, TOPIC, alive=alive)
    place = data.draw(st.integers(0, len(text) - 1))
    changed = text[:place] + data.draw(CHARACTERS) + text[place + 1 :]
    assert decode(changed, view.watermark, TOPIC) in (Progress(view.watermark), expected(view, alive=alive))
    assert decode(changed, view.watermark, OTHER_TOPIC) in (
        Progress(view.watermark),
        Progress(view.watermark, foreign_topic=True),
    )


def test_every_character_counts() -> None:
    """No character but the last, of which some bits mean nothing, can be another one of the alphabet."""
    view = View(5, 900, (5, 100, 700), (100,), ((5, 1),))
    text = encode(view, TOPIC, alive=True)
    for place in range(len(text) - 1):
        for other in set("ABCDEFwxyz0189-_") - {text[place]}:
            changed = text[:place] + other + text[place + 1 :]
            assert decode(changed, 5, TOPIC) == Progress(5)


@given(views(most=12), st.data())
def test_a_part_of_it_tells_nothing(view: View, data: st.DataObject) -> None:
    """Cut anywhere, or with something added: ignored."""
    text = encode(view, TOPIC, alive=True)
    part = text[: data.draw(st.integers(0, len(text) - 1))]
    assert decode(part, view.watermark, TOPIC) == Progress(view.watermark)
    for more in ("AAAA", "\n", " "):
        assert decode(text + more, view.watermark, TOPIC) == Progress(view.watermark)


@given(views(most=12), OFFSETS)
def test_metadata_of_another_offset_tells_nothing(view: View, offset: int) -> None:
    """Somebody who sets the offset by hand may leave the metadata: it is not about that offset."""
    known = expected(view, alive=True) if offset == view.watermark else Progress(offset)
    assert decode(encode(view, TOPIC, alive=True), offset, TOPIC) == known


@given(views(most=12), st.booleans())
def test_metadata_of_another_topic_is_known_as_such(view: View, alive: bool) -> None:
    """A topic that was deleted and made anew: neither done-map nor counts nor the offset mean anything."""
    text = encode(view, TOPIC, alive=alive)
    assert decode(text, view.watermark, OTHER_TOPIC) == Progress(view.watermark, foreign_topic=True)


@given(st.none() | st.text(CHARACTERS) | st.text(CHARACTERS).map("kq1.".__add__), OFFSETS)
@example("", 0)
@example("kq1.", 0)
@example("NO_METADATA", 0)
def test_foreign_text_tells_nothing(text: str | None, offset: int) -> None:
    """Other programs put there what they like."""
    assert decode(text, offset, TOPIC) == Progress(offset)


@given(st.binary(max_size=80), st.integers(-1, 2**63 - 1))
def test_any_bytes_in_base64_tell_nothing(raw: bytes, offset: int) -> None:
    """Nor does what only looks like ours."""
    text = "kq1." + base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    assert decode(text, offset, TOPIC) == Progress(offset)


@given(st.binary(max_size=60), st.integers(0, 2**62))
def test_a_wrong_body_under_a_good_checksum_raises_nothing(body: bytes, offset: int) -> None:
    """Whatever it says, it is about offsets from the committed one on, and an epoch can begin with it."""
    progress = decode(sealed(TOPIC.bytes + body, offset), offset, TOPIC)
    assert progress.watermark == offset
    assert [o for o, _ in progress.deliveries if o < offset] == []
    assert encode(reopen(progress), TOPIC, alive=True)
    assert decode(sealed(body[:15], offset), offset, TOPIC) == Progress(offset)
