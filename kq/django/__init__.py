"""KQ in a Django project: settings, a page of the admin for the message log, and ``manage.py kq_worker``.

It knows Django, and nothing else of KQ knows it. ``"kq.django"`` goes into ``INSTALLED_APPS``.
"""

from kq.django.conf import fresh_connections, queue, set_up, store, worker

__all__ = ["fresh_connections", "queue", "set_up", "store", "worker"]
