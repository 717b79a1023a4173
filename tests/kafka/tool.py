"""What the specs ask of a Kafka through a client that is not ours (confluent-kafka).

    tool.py ADDRESS produce TOPIC [PROPERTY=VALUE...]   records as JSON lines on stdin
    tool.py ADDRESS dump TOPIC                          every record as a JSON line
    tool.py ADDRESS create TOPIC PARTITIONS [CONFIG=VALUE...]
    tool.py ADDRESS place TOPIC BROKER...               one partition on each of these brokers
    tool.py ADDRESS delete TOPIC
    tool.py ADDRESS acl NAME KIND USER OPERATION PERMISSION SET
                                                        PERMISSION allow or deny; SET true or false
    tool.py ADDRESS group GROUP                         state, protocol, members, coordinator
    tool.py ADDRESS offsets GROUP TOPIC                 committed offset of each partition
    tool.py ADDRESS notes GROUP TOPIC                   the metadata that goes with each of them
    tool.py ADDRESS commit GROUP TOPIC PARTITION OFFSET METADATA
    tool.py ADDRESS ends TOPIC                          end offset of each partition

Keys, values and header values travel as hexadecimal, null as null: nothing is lost on the way.
"""

import json
import sys

from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)

WAIT = 60


def unhex(text):
    return None if text is None else bytes.fromhex(text)


def to_hex(data):
    return None if data is None else bytes(data).hex()


def produce(address, topic, *properties):
    conf = {"bootstrap.servers": address, "partitioner": "murmur2_random", "linger.ms": 20}
    conf.update(each.split("=", 1) for each in properties)
    producer = Producer(conf)
    reports = []

    def report(index):
        return lambda err, msg: reports.append(
            {
                "index": index,
                "error": str(err) if err else None,
                "partition": msg.partition(),
                "offset": msg.offset(),
            }
        )

    for index, line in enumerate(sys.stdin):
        record = json.loads(line)
        extra = {}
        if record.get("partition") is not None:
            extra["partition"] = int(record["partition"])
        producer.produce(
            topic,
            key=unhex(record.get("key")),
            value=unhex(record.get("value")),
            headers=[(name, unhex(value)) for name, value in record.get("headers") or []],
            on_delivery=report(index),
            **extra,
        )
        producer.poll(0)
    producer.flush(WAIT)
    reports.sort(key=lambda each: each["index"])
    print(json.dumps(reports))


def partitions_of(client, topic):
    metadata = client.list_topics(topic, timeout=WAIT).topics[topic]
    return sorted(metadata.partitions) if not metadata.error else []


def dump(address, topic):
    consumer = Consumer(
        {
            "bootstrap.servers": address,
            "group.id": "tool",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    parts = [TopicPartition(topic, number, 0) for number in partitions_of(consumer, topic)]
    expected = {}
    for part in parts:
        low, high = consumer.get_watermark_offsets(part, timeout=WAIT)
        part.offset = low
        if high > low:
            expected[part.partition] = high
    consumer.assign(parts)
    records = []
    while expected:
        msg = consumer.poll(WAIT)
        if msg is None:
            sys.exit(f"{topic} was not read to its end: {expected}")
        if msg.error():
            expected.pop(msg.partition(), None)
            continue
        records.append(
            {
                "partition": msg.partition(),
                "offset": msg.offset(),
                "key": to_hex(msg.key()),
                "value": to_hex(msg.value()),
                "headers": [[name, to_hex(value)] for name, value in msg.headers() or []],
                "timestamp": msg.timestamp()[1],
            }
        )
        if msg.offset() + 1 >= expected.get(msg.partition(), 0):
            expected.pop(msg.partition(), None)
    consumer.close()
    records.sort(key=lambda each: (each["partition"], each["offset"]))
    for record in records:
        print(json.dumps(record))


def create(address, topic, partitions, *config):
    admin = AdminClient({"bootstrap.servers": address})
    new = NewTopic(topic, int(partitions), 1, config=dict(each.split("=", 1) for each in config))
    admin.create_topics([new])[topic].result(WAIT)


def place(address, topic, *brokers):
    admin = AdminClient({"bootstrap.servers": address})
    new = NewTopic(topic, len(brokers), replica_assignment=[[int(each)] for each in brokers])
    admin.create_topics([new])[topic].result(WAIT)


def delete(address, topic):
    admin = AdminClient({"bootstrap.servers": address})
    admin.delete_topics([topic])[topic].result(WAIT)


def acl(address, name, kind, user, operation, permission, present):
    parts = (
        ResourceType[kind.upper()],
        name,
        ResourcePatternType.LITERAL,
        "User:" + user,
        "*",
        AclOperation[operation.upper()],
        AclPermissionType[permission.upper()],
    )
    admin = AdminClient({"bootstrap.servers": address})
    if present == "true":
        binding = AclBinding(*parts)
        admin.create_acls([binding])[binding].result(WAIT)
    else:
        pattern = AclBindingFilter(*parts)
        admin.delete_acls([pattern])[pattern].result(WAIT)


def group(address, name):
    admin = AdminClient({"bootstrap.servers": address})
    found = admin.describe_consumer_groups([name])[name].result(WAIT)
    members = [
        {
            "client_id": member.client_id,
            "instance": member.group_instance_id,
            "partitions": [
                f"{part.topic}:{part.partition}"
                for part in (member.assignment.topic_partitions if member.assignment else [])
            ],
        }
        for member in found.members
    ]
    print(
        json.dumps(
            {
                "state": found.state.name,
                "assignor": found.partition_assignor,
                "members": members,
                "coordinator": found.coordinator.id,
            }
        )
    )


def committed(address, name, topic):
    admin = AdminClient({"bootstrap.servers": address})
    asked = ConsumerGroupTopicPartitions(name)
    answer = admin.list_consumer_group_offsets([asked])[name].result(WAIT)
    return [part for part in answer.topic_partitions if part.topic == topic and part.offset >= 0]


def offsets(address, name, topic):
    print(json.dumps({str(part.partition): part.offset for part in committed(address, name, topic)}))


def notes(address, name, topic):
    found = committed(address, name, topic)
    print(json.dumps({str(part.partition): part.metadata or "" for part in found}))


def commit(address, name, topic, partition, offset, metadata):
    consumer = Consumer({"bootstrap.servers": address, "group.id": name})
    part = TopicPartition(topic, int(partition), int(offset), metadata)
    consumer.commit(offsets=[part], asynchronous=False)
    consumer.close()


def ends(address, topic):
    consumer = Consumer({"bootstrap.servers": address, "group.id": "tool"})
    found = {
        str(number): consumer.get_watermark_offsets(TopicPartition(topic, number), timeout=WAIT)[1]
        for number in partitions_of(consumer, topic)
    }
    consumer.close()
    print(json.dumps(found))


VERBS = {
    each.__name__: each
    for each in (produce, dump, create, place, delete, acl, group, offsets, notes, commit, ends)
}

if __name__ == "__main__":
    VERBS[sys.argv[2]](sys.argv[1], *sys.argv[3:])
