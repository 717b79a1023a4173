"""What scripts/bench measures moonbus against in Python, one case a process.

    peers.py confluent ADDRESS TOPIC COUNT
    peers.py aiokafka ADDRESS TOPIC COUNT
    peers.py eventsource ADDRESS PREFIX COUNT
    peers.py eventsource-publish ADDRESS PREFIX COUNT BATCH

Each prints one line of JSON; the clock runs from the first event to the last.
"""

import asyncio
import json
import resource
import sys
import time
import uuid

from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer
from confluent_kafka import TopicPartition as Position
from eventsource import DomainEvent
from eventsource.bus.kafka import KafkaEventBus, KafkaEventBusConfig
from eventsource.events.registry import EventRegistry

registry = EventRegistry()


class OrderPlaced(DomainEvent):
    event_type: str = "OrderPlaced"
    aggregate_type: str = "Order"
    customer_id: str
    total_amount: float
    currency: str
    sent_us: int


registry.register(OrderPlaced)


def cpu_seconds():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak_kb():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:"))


class Clocks:
    def start(self):
        self.started_cpu, self.started = cpu_seconds(), time.monotonic()

    def stop(self):
        self.stopped, self.stopped_cpu = time.monotonic(), cpu_seconds()

    def print(self, events, total=None):
        print(
            json.dumps(
                {
                    "events": events,
                    "seconds": self.stopped - self.started,
                    "cpu_seconds": self.stopped_cpu - self.started_cpu,
                    "peak_kb": peak_kb(),
                    "sum": total,
                }
            )
        )


def confluent(address, topic, count):
    """Batches of consume(), as confluent-kafka recommends for throughput; offsets are stored once
    their batch is handled, and committed every second. The queue limits are those
    of raw_consume.c."""
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": f"bench-{uuid.uuid4()}",
            "auto.offset.reset": "earliest",
            "enable.auto.offset.store": False,
            "auto.commit.interval.ms": 1000,
            "queued.min.messages": 400000,
            "queued.max.messages.kbytes": 131072,
        }
    )
    consumer.subscribe([topic])
    clocks, seen, total = Clocks(), 0, 0.0
    while seen < count:
        batch = consumer.consume(num_messages=min(1000, count - seen), timeout=1.0)
        if batch and not seen:
            clocks.start()
        following = {}
        for message in batch:
            if message.error():
                sys.exit(str(message.error()))
            event = json.loads(message.value())
            if event["customer_id"]:
                total += event["total_amount"]
            following[message.partition()] = message.offset() + 1
        seen += len(batch)
        if following:
            consumer.store_offsets(
                offsets=[Position(topic, part, offset) for part, offset in following.items()]
            )
    clocks.stop()
    consumer.close()
    clocks.print(seen, total)


async def aiokafka(address, topic, count):
    """Batches of getmany(), as aiokafka recommends for throughput; committed once a second."""
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=address,
        group_id=f"bench-{uuid.uuid4()}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    await consumer.start()
    clocks, seen, total, committed = Clocks(), 0, 0.0, time.monotonic()
    while seen < count:
        batches = await consumer.getmany(timeout_ms=1000, max_records=min(1000, count - seen))
        following = {}
        for part, messages in batches.items():
            if not seen:
                clocks.start()
            for message in messages:
                event = json.loads(message.value)
                if event["customer_id"]:
                    total += event["total_amount"]
            seen += len(messages)
            following[TopicPartition(part.topic, part.partition)] = messages[-1].offset + 1
        if following and time.monotonic() - committed > 1:
            await consumer.commit(following)
            committed = time.monotonic()
    clocks.stop()
    await consumer.stop()
    clocks.print(seen, total)


def make_bus(address, prefix, **more):
    return KafkaEventBus(
        config=KafkaEventBusConfig(
            bootstrap_servers=address,
            topic_prefix=prefix,
            consumer_group=f"bench-{uuid.uuid4()}",
            compression_type="lz4",
            enable_tracing=False,
            enable_metrics=False,
            **more,
        ),
        event_registry=registry,
    )


async def eventsource(address, prefix, count):
    """The bus as its tutorial sets it up, without metrics and tracing."""
    bus = make_bus(address, prefix)
    clocks, done = Clocks(), asyncio.Event()
    seen, total = 0, 0.0

    async def handle(event):
        nonlocal seen, total
        seen += 1
        if seen == 1:
            clocks.start()
        if seen <= count and event.customer_id:
            total += event.total_amount
        if seen == count:
            clocks.stop()
            done.set()

    bus.subscribe(OrderPlaced, handle)
    await bus.connect()
    task = bus.start_consuming_in_background()
    await done.wait()
    await bus.stop_consuming()
    task.cancel()
    await bus.disconnect()
    clocks.print(count, total)


async def eventsource_publish(address, prefix, count, size):
    """publish() of lists of `size`, waiting for each."""
    bus = make_bus(address, prefix)
    keys = [uuid.uuid4() for _ in range(1000)]
    await bus.connect()
    clocks = Clocks()
    clocks.start()
    for begin in range(0, count, size):
        await bus.publish(
            [
                OrderPlaced(
                    aggregate_id=keys[i % len(keys)],
                    customer_id=f"CUST-{i:06d}",
                    total_amount=i % 1000 + 0.5,
                    currency="EUR",
                    sent_us=1000000000000 + i,
                )
                for i in range(begin, min(begin + size, count))
            ]
        )
    clocks.stop()
    await bus.disconnect()
    clocks.print(count)


def main(verb, address, topic, *numbers):
    numbers = [int(number) for number in numbers]
    if verb == "confluent":
        confluent(address, topic, *numbers)
    elif verb == "aiokafka":
        asyncio.run(aiokafka(address, topic, *numbers))
    elif verb == "eventsource":
        asyncio.run(eventsource(address, topic, *numbers))
    elif verb == "eventsource-publish":
        asyncio.run(eventsource_publish(address, topic, *numbers))
    else:
        sys.exit(__doc__)


main(*sys.argv[1:])
