"""Actors found by name, a message out of band, a queue between tasks."""

import socket

import nbray as ray
from nbray.util.queue import Queue


@ray.remote
class Cache:
    def __init__(self):
        self.values = {}

    def set(self, key, value):
        self.values[key] = value

    def get(self, key):
        return self.values.get(key)


@ray.remote
class Listener:
    """Its socket carries bytes that no ref stands for."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))

    def address(self):
        return self.socket.getsockname()

    def receive(self):
        connection, _ = self.socket.accept()
        with connection:
            return connection.recv(100)


@ray.remote
def lookup(key):
    return ray.get(ray.get_actor("cache", namespace="shop").get.remote(key))


@ray.remote
def produce(queue, count):
    for number in range(count):
        queue.put(number)


ray.init(num_cpus=4, namespace="shop")
cache = Cache.options(name="cache").remote()
ray.get(cache.set.remote("k", "v"))
assert ray.get(lookup.remote("k")) == "v"
same = Cache.options(name="cache", get_if_exists=True).remote()
assert ray.get(same.get.remote("k")) == "v"
for wrong in ({"name": "nobody"}, {"name": "cache", "namespace": "elsewhere"}):
    try:
        ray.get_actor(**wrong)
    except ValueError as error:
        assert str(error).startswith("Failed to look up actor with name"), error
    else:
        raise AssertionError("found what is not there")
try:
    Cache.options(name="cache").remote()
except ValueError:
    print("a name is given once")
else:
    raise AssertionError("a name was given twice")

listener = Listener.remote()
address = ray.get(listener.address.remote())
received = listener.receive.remote()
with socket.create_connection(tuple(address)) as connection:
    connection.sendall(b"hello")
assert ray.get(received) == b"hello"

queue = Queue(maxsize=2)
producer = produce.remote(queue, 5)
assert [queue.get(timeout=60) for _ in range(5)] == list(range(5))
ray.get(producer)
print("found by name, heard out of band, taken from a queue")
ray.shutdown()
