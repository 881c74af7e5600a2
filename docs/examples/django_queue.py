"""The queue of a Django project."""

from django.conf import settings

import kq

#: One for the process. It connects at its first job, after the server has forked.
queue = kq.Queue("orders", hosts=settings.KQ_HOSTS, enqueue_timeout=2)
