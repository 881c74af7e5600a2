import logging

from kq import Worker


def callback(status, message, job, result, exception, stacktrace):
    print(f"{message.topic}/{message.partition}/{message.offset}: {status}, {result!r}")


if __name__ == "__main__":
    logging.basicConfig(format="[%(levelname)s] %(message)s")
    logging.getLogger("kq").setLevel("INFO")
    Worker("tutorial", hosts="127.0.0.1:9092", callback=callback).start()
