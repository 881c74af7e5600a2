"""Sets Django up where it is imported; DJANGO_SETTINGS_MODULE names the settings."""

import django

django.setup()
