"""The other side of interop_spec.lua: the real eventsource-py on the same topic.

    interop.py ADDRESS publish PREFIX COUNT FILE       publish, write what was sent to FILE
    interop.py ADDRESS consume PREFIX COUNT FILE       consume, compare with FILE, print a report
    interop.py ADDRESS fail PREFIX RETRIES             consume with a handler that always fails
    interop.py ADDRESS share PREFIX GROUP FILE         consume until SIGTERM, ids go to FILE
    interop.py ADDRESS dead PREFIX LIMIT               get_dlq_messages
    interop.py ADDRESS replay PREFIX PARTITION OFFSET  replay_dlq_message

FILE holds one JSON object per event: what its fields are, in text that loses nothing (floats in
hexadecimal, integers and decimals as digits).
"""

import asyncio
import json
import logging
import random
import signal
import sys
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

try:
    from eventsource.bus.kafka import KafkaEventBus, KafkaEventBusConfig
    from eventsource.events import DomainEvent, EventRegistry
except ImportError:  # from 0.8 on
    from eventsource import DomainEvent, EventRegistry, KafkaEventBus, KafkaEventBusConfig

WAIT = 60

logging.basicConfig(stream=sys.stderr, level=logging.ERROR)


class Measured(DomainEvent):
    aggregate_type: str = "Probe"
    ref: UUID
    amount: Decimal
    ratio: float
    count: int
    big: int
    ok: bool
    note: str | None = None
    tags: list[str]
    readings: list[int]
    extra: dict[str, Any]


REGISTRY = EventRegistry()
REGISTRY.register(Measured)


def new_bus(address, prefix, group=None, **options):
    config = KafkaEventBusConfig(
        bootstrap_servers=address,
        topic_prefix=prefix,
        consumer_group=group or f"python-{uuid4()}",
        enable_tracing=False,
        enable_metrics=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=200,
        **options,
    )
    return KafkaEventBus(config=config, event_registry=REGISTRY)


def in_words(event):
    """The fields as text; the counterpart of in_words in interop_spec.lua."""
    words = event.model_dump(mode="json")
    words["ratio"] = event.ratio.hex()
    for name in ("count", "big", "event_version", "aggregate_version"):
        words[name] = str(getattr(event, name))
    words["readings"] = [str(each) for each in event.readings]
    words["occurred_at"] = event.occurred_at.isoformat()
    return words


TEXTS = ["", "plain", "zażółć gęślą jaźń", "\u65e5\u672c\u8a9e", "\U0001f600\u200d\U0001f680",
         'quotes " and \\ and /', "tab\tline\nfeed\x01\x7f", "\u2028\ufeff", "a" * 3000]
FLOATS = [0.0, -0.0, 1.0, 100.0, 0.1, 1e-5, 1e-7, 1e15, 1e16, 1e22, 1.7976931348623157e308,
          5e-324, -2.2250738585072014e-308, 3.141592653589793]
DECIMALS = ["0", "-0.0", "12.340", "1E+3", "1E-10", "99999999999999999999.99", "0.10", "-5"]
INTS = [0, 1, -1, 2**31, -(2**31), 2**53, 2**53 + 1, -(2**53) - 1, 2**62, -(2**62), 2**63 - 1,
        -(2**63)]


def make(number):
    rng = random.Random(number)
    return Measured(
        aggregate_id=uuid4(),
        aggregate_version=number + 1,
        tenant_id=uuid4() if number % 3 == 0 else None,
        actor_id=rng.choice(["user:é", "", None]),
        causation_id=uuid4() if number % 5 == 0 else None,
        metadata={
            "source": rng.choice(TEXTS),
            "n": rng.choice(INTS),
            "nested": {"list": [1, None, True, {"ü": []}], "empty": {}},
        },
        ref=uuid4(),
        amount=Decimal(rng.choice(DECIMALS)) if number % 2 else Decimal(rng.randrange(10**9)) / 100,
        ratio=rng.choice(FLOATS) if number % 2 else rng.uniform(-1e6, 1e6),
        count=number,
        big=rng.choice(INTS) if number % 2 else rng.randrange(-(2**62), 2**62),
        ok=rng.random() < 0.5,
        note=rng.choice([*TEXTS, None]),
        tags=[rng.choice(TEXTS) for _ in range(rng.randrange(4))],
        readings=[rng.choice(INTS) for _ in range(rng.randrange(5))],
        extra={"deep": {"er": [[], [[1]], {"x": rng.choice(TEXTS)}]}, "big": 2**62},
    )


async def publish(address, prefix, count, path):
    bus = new_bus(address, prefix)
    await bus.connect()
    events = [make(number) for number in range(int(count))]
    # One by one and at once: background=True of 0.5.0 fails with aiokafka's futures.
    await asyncio.gather(*(bus.publish([event]) for event in events))
    await bus.disconnect()
    with open(path, "w", encoding="utf-8") as out:
        for event in events:
            out.write(json.dumps(in_words(event)) + "\n")


async def consume_until(bus, done, seconds=WAIT):
    """Consume until done() is true. It does not stop by itself while idle: cancel it."""
    task = bus.start_consuming_in_background()
    deadline = asyncio.get_running_loop().time() + seconds
    while not done() and not task.done() and asyncio.get_running_loop().time() < deadline:
        await asyncio.sleep(0.02)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def consume(address, prefix, count, path):
    expected = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            words = json.loads(line)
            expected[words["event_id"]] = words
    got = []
    bus = new_bus(address, prefix)

    async def note(event):
        got.append(event)

    bus.subscribe(Measured, note)
    await bus.connect()
    await consume_until(bus, lambda: len(got) + bus.stats.messages_sent_to_dlq >= int(count))
    wrong = []
    for event in got:
        words, original = in_words(event), expected.pop(str(event.event_id), {})
        wrong += [
            {"field": name, "got": repr(words.get(name)), "expected": repr(original.get(name))}
            for name in sorted(words.keys() | original.keys())
            if words.get(name) != original.get(name)
            or json.dumps(words.get(name)) != json.dumps(original.get(name))
        ]
    print(
        json.dumps(
            {
                "count": len(got),
                "missing": len(expected),
                "wrong": wrong[:5],
                "dead": bus.stats.messages_sent_to_dlq,
                "failed": bus.stats.events_processed_failed,
            }
        )
    )
    await bus.disconnect()


async def fail(address, prefix, retries):
    bus = new_bus(address, prefix, max_retries=int(retries), retry_base_delay=0.01)

    async def refuse(event):
        raise ValueError("zły dzień")

    bus.subscribe(Measured, refuse)
    await bus.connect()
    await consume_until(bus, lambda: bus.stats.messages_sent_to_dlq > 0)
    print(json.dumps({"group": bus.config.consumer_group}))
    await bus.disconnect()


async def share(address, prefix, group, path):
    bus = new_bus(address, prefix, group, consumer_name="python")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    with open(path, "w", encoding="utf-8", buffering=1) as out:

        async def note(event):
            out.write(f"{event.event_id}\n")

        bus.subscribe(Measured, note)
        await bus.connect()
        await consume_until(bus, stop.is_set, 120)
    await bus.disconnect()


async def dead(address, prefix, limit):
    bus = new_bus(address, prefix)
    await bus.connect()
    # Without the limit plus one it would wait for ever: what is returned is cut to the limit.
    messages = await asyncio.wait_for(bus.get_dlq_messages(limit=int(limit)), WAIT)
    print(json.dumps(messages))
    await bus.disconnect()


async def replay(address, prefix, partition, offset):
    bus = new_bus(address, prefix)
    await bus.connect()
    print(json.dumps(await bus.replay_dlq_message(int(partition), int(offset))))
    await bus.disconnect()  # flushes


VERBS = {each.__name__: each for each in (publish, consume, fail, share, dead, replay)}

if __name__ == "__main__":
    asyncio.run(VERBS[sys.argv[2]](sys.argv[1], *sys.argv[3:]))
