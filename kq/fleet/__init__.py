"""Fleet: consumers and sets of them, with the names of django-carrot."""

from kq.fleet.consumer import Consumer
from kq.fleet.consumer_set import ConsumerSet
from kq.fleet.virtual_host import VirtualHost

__all__ = ["Consumer", "ConsumerSet", "VirtualHost"]
