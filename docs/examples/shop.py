"""Jobs of a shop, for the pictures of the dashboard."""

import logging
import random
import time

_logger = logging.getLogger("shop")


def charge(order: int, amount: float) -> str:
    """Charge an order; now and then a card is declined."""
    _logger.info("charging order %s: %.2f", order, amount)
    time.sleep(random.uniform(0.05, 0.3))
    if order % 23 == 0:
        raise ValueError(f"card of order {order} was declined: insufficient funds")
    if order % 41 == 0:
        raise ConnectionError("payments.example did not answer within 5 s")
    return f"paid-{order}"


def resize_photo(name: str, width: int) -> int:
    """Make a photo smaller; a few files are none."""
    time.sleep(random.uniform(0.1, 0.5))
    if name.endswith("9.jpg"):
        raise OSError(f"{name} is no image: unexpected end of file")
    return width


def send_receipt(address: str) -> None:
    """Send a letter."""
    time.sleep(0.05)


def build_report(month: str) -> str:
    """Take a while."""
    _logger.info("reading all orders of %s", month)
    time.sleep(45)
    return month
