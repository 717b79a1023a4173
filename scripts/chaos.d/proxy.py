"""A TCP proxy before each of several brokers, which delays, cuts, half-closes and garbles connections.

    proxy.py SEED COUNT FILE

Listens on COUNT free loopback ports and prints them on a line. Then it does what lines on standard
input say, and answers each with a line:

    to PORT...    where the connections go, one port for each of its own
    faults        begin with the faults
    calm          end them; the answer is a JSON object of how many there were of each kind

Each fault is a line at the end of FILE. It ends when its standard input does. It knows nothing of what it passes on: what comes through it
must be TLS, which finds every flipped bit and ends the connection. A record of Kafka has a check of
its own, but the requests and answers around it have none.
"""

import asyncio
import collections
import json
import random
import sys
import time

PAUSE = 0.3, 2.5  # seconds between two faults, at least and at most
DELAYS = 0.1, 0.3, 1, 3, 8  # seconds that a direction stands still
REFUSED = 0.5, 4  # seconds in which a broker takes no connection
KINDS = ("delay",) * 6 + ("cut",) * 4 + ("half-close",) * 2 + ("garble",) * 4 + ("refuse",)


class Direction:
    """What goes one way through a connection."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.held_until = 0  # the loop's time
        self.garbled = False  # the next bytes
        self.closed = False

    async def pump(self):
        loop = asyncio.get_running_loop()
        while data := await self.reader.read(65536):
            if self.held_until > loop.time():
                await asyncio.sleep(self.held_until - loop.time())
            if self.closed:
                continue
            if self.garbled:
                self.garbled = False
                data = garble(data)
            self.writer.write(data)
            await self.writer.drain()
        self.close()

    def close(self):
        if not self.closed:
            self.closed = True
            try:
                self.writer.write_eof()
            except OSError:  # it is gone already
                pass


class Link:
    """A connection of a client, and that to the broker."""

    def __init__(self, client, broker):
        self.directions = Direction(client[0], broker[1]), Direction(broker[0], client[1])
        self.writers = client[1], broker[1]

    async def run(self):
        try:
            await asyncio.gather(*(each.pump() for each in self.directions))
        except OSError:
            pass
        finally:
            self.cut()

    def cut(self):
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    def __init__(self):
        self.links, self.target, self.refuses_until = set(), None, 0

    async def listen(self):
        self.server = await asyncio.start_server(self.accept, "127.0.0.1", 0)
        return self.server.sockets[0].getsockname()[1]

    async def accept(self, reader, writer):
        loop = asyncio.get_running_loop()
        try:
            if not self.target or self.refuses_until > loop.time():
                raise ConnectionRefusedError
            broker = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:  # as the broker does that is away
            writer.transport.abort()
            return
        link = Link((reader, writer), broker)
        self.links.add(link)
        try:
            await link.run()
        finally:
            self.links.discard(link)


    def calm(self):
        self.refuses_until = 0
        for link in self.links:
            for direction in link.directions:
                direction.held_until, direction.garbled = 0, False


def garble(data):
    """The bytes, up to four of them with another value."""
    data = bytearray(data)
    for _ in range(random.randint(1, 4)):
        data[random.randrange(len(data))] ^= random.randint(1, 255)
    return bytes(data)


def break_one(proxy):
    """Break a connection, or all of them and those to come; what was done, or None."""
    now = asyncio.get_running_loop().time()
    kind = random.choice(KINDS)
    if kind == "refuse":
        seconds = random.uniform(*REFUSED)
        proxy.refuses_until = now + seconds
        for link in list(proxy.links):
            link.cut()
        return kind, f"all, {seconds:.1f} s"
    if not proxy.links:
        return None
    link = random.choice(list(proxy.links))
    index = random.randrange(2)
    direction, way = link.directions[index], ("to it", "from it")[index]
    if kind == "delay":
        seconds = random.choice(DELAYS)
        direction.held_until = now + seconds
        way += f", {seconds} s"
    elif kind == "cut":
        link.cut()
    elif kind == "half-close":
        direction.close()
    else:
        direction.garbled = True
    return kind, way


async def break_things(proxies, counts, log):
    while True:
        await asyncio.sleep(random.uniform(*PAUSE))
        proxy = random.choice(proxies)
        if done := break_one(proxy):
            counts[done[0]] += 1
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            number = proxies.index(proxy) + 1
            print(f"{now} connection {done[0]}: broker {number}, {done[1]}", file=log, flush=True)


async def main(seed, count, log):
    random.seed(seed)
    proxies = [Proxy() for _ in range(count)]
    print(*[await proxy.listen() for proxy in proxies], flush=True)
    loop = asyncio.get_running_loop()
    counts, faults = collections.Counter(), None
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().split():
        answer = "ok"
        if line[0] == "to":
            for proxy, port in zip(proxies, line[1:], strict=True):
                proxy.target = int(port)
        elif line[0] == "faults":
            faults = loop.create_task(break_things(proxies, counts, log))
        elif line[0] == "calm":
            if faults:
                faults.cancel()
            for proxy in proxies:
                proxy.calm()
            answer = json.dumps(counts)
        print(answer, flush=True)


with open(sys.argv[3], "a", encoding="utf-8") as file:
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2]), file))
