"""An async actor that serves many requests at once, each of which waits."""

import asyncio

import nbray as ray


@ray.remote(max_concurrency=200)
class Server:
    def __init__(self):
        self.now = self.most = 0
        self.all_here = asyncio.Event()

    async def request(self, number):
        self.now += 1
        self.most = max(self.most, self.now)
        if self.now == 100:
            self.all_here.set()
        await self.all_here.wait()
        self.now -= 1
        return number * 2

    async def most_at_once(self):
        return self.most


@ray.remote
def client(server, first):
    return sum(ray.get([server.request.remote(first + i) for i in range(50)]))


async def ask(server):
    return await asyncio.gather(*[server.request.remote(i) for i in range(10)])


ray.init(num_cpus=2)
server = Server.remote()
total = sum(ray.get([client.remote(server, 0), client.remote(server, 50)]))
assert total == sum(2 * i for i in range(100))
assert ray.get(server.most_at_once.remote()) == 100
assert asyncio.run(ask(server)) == [2 * i for i in range(10)]
print("100 requests at once, sum", total)
ray.shutdown()
