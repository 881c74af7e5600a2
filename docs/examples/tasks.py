"""What the jobs of the tutorial do."""

import time


def count_words(text: str) -> int:
    """Return the number of words."""
    return len(text.split())


def nap(seconds: float) -> str:
    """Return after a while."""
    time.sleep(seconds)
    return "rested"
