/* config/options.h: every option, once. The enum of ids, the table, the command line's flags and
 * the manual's reference all come from this list; its order is theirs.
 *
 * X(key, section, type, choices, default, unit, min, max, librdkafka property, flags, help)
 *   flags: which clients get the property (MB_TO_...), under which protocol (MB_ONLY_...),
 * and whether the value is MB_SECRET; bounds count for integer and number only. */
#ifndef MB_CONFIG_OPTIONS_H
#define MB_CONFIG_OPTIONS_H

#define MB__INT32 2147483647 /* where librdkafka's own bounds end */

#define MB__OPTIONS(X)                                                                             \
  MB__OPTIONS_CONNECTION(X)                                                                        \
  MB__OPTIONS_PRODUCER(X)                                                                          \
  MB__OPTIONS_CONSUMER(X)                                                                          \
  MB__OPTIONS_RETRY(X)                                                                             \
  MB__OPTIONS_SECURITY(X)                                                                          \
  MB__OPTIONS_OBSERVE(X)

#define MB__OPTIONS_CONNECTION(X)                                                                  \
  X(bootstrap_servers, "Connection", string, NULL, "localhost:9092", NULL, 0, 0,                   \
    "bootstrap.servers", MB_TO_ALL,                                                                \
    "Brokers to ask first, as host:port separated by commas; \"embedded\" runs one in memory in "  \
    "this process.")                                                                               \
  X(topic_prefix, "Connection", string, NULL, "events", NULL, 0, 0, NULL, 0,                       \
    "Events go to the topic {topic_prefix}.stream.")                                               \
  X(consumer_group, "Connection", string, NULL, "default", NULL, 0, 0, "group.id", MB_TO_GROUP,    \
    "Members of one group share the partitions between them; every group sees every event.")       \
  X(consumer_name, "Connection", string, NULL, NULL, NULL, 0, 0, "client.id", MB_TO_ALL,           \
    "This process's name in the broker's logs and group listings; unset, it is made of the host "  \
    "name and 8 hex digits.")                                                                      \
  X(reconnect_backoff_ms, "Connection", integer, NULL, "1000", "ms", 0, 3600000, NULL, 0,          \
    "Wait before a new consumer takes the place of one that broke; doubles with each further "     \
    "attempt. Lost connections are restored within a second, whatever this is.")                   \
  X(reconnect_backoff_max_ms, "Connection", integer, NULL, "60000", "ms", 0, 3600000, NULL, 0,     \
    "The longest wait between such attempts.")                                                     \
  X(shutdown_timeout, "Connection", number, NULL, "30.0", "s", 0, 86400, NULL, 0,                  \
    "How long disconnecting may take to finish the event in hand and deliver what is queued; a "   \
    "broker that does not answer gets a sixth of it.")

#define MB__OPTIONS_PRODUCER(X)                                                                    \
  X(acks, "Producer", choice, "all|1|0", "all", NULL, 0, 0, "acks", MB_TO_PRODUCER,                \
    "Who has an event before it counts as published: all in-sync replicas (without duplicates), "  \
    "the leader alone, or nobody.")                                                                \
  X(compression_type, "Producer", choice, "none|gzip|snappy|lz4|zstd", "gzip", NULL, 0, 0,         \
    "compression.type", MB_TO_PRODUCER, "How batches are compressed.")                             \
  X(batch_size, "Producer", integer, NULL, "16384", "bytes", 1, MB__INT32, "batch.size",           \
    MB_TO_PRODUCER, "The largest batch per partition.")                                            \
  X(linger_ms, "Producer", integer, NULL, "5", "ms", 0, 900000, "linger.ms", MB_TO_PRODUCER,       \
    "How long an event waits for others to share its batch.")                                      \
  X(delivery_timeout_ms, "Producer", integer, NULL, "30000", "ms", 1, MB__INT32,                   \
    "message.timeout.ms", MB_TO_PRODUCER,                                                          \
    "An event not acknowledged after this time, resends included, is reported as undelivered.")    \
  X(queue_full_timeout_ms, "Producer", integer, NULL, "30000", "ms", 0, MB__INT32, NULL, 0,        \
    "How long a publish waits for room when the producer's queue is full.")                        \
  X(producer_queue_max_events, "Producer", integer, NULL, "100000", "events", 1, MB__INT32,        \
    "queue.buffering.max.messages", MB_TO_PRODUCER,                                                \
    "Events that may wait in the producer's queue.")                                               \
  X(producer_queue_max_kbytes, "Producer", integer, NULL, "1048576", "KiB", 1, MB__INT32,          \
    "queue.buffering.max.kbytes", MB_TO_PRODUCER, "Memory the producer's queue may take.")         \
  X(message_max_bytes, "Producer", integer, NULL, "1000000", "bytes", 1000, 1000000000,            \
    "message.max.bytes", MB_TO_ALL,                                                                \
    "The largest record that may be sent; the broker's own limit has to allow it too.")

#define MB__OPTIONS_CONSUMER(X)                                                                    \
  X(auto_offset_reset, "Consumer", choice, "earliest|latest|none", "earliest", NULL, 0, 0,         \
    "auto.offset.reset", MB_TO_GROUP,                                                              \
    "Where a group without a committed offset starts; none makes that an error.")                  \
  X(group_protocol, "Consumer", choice, "classic|consumer", "classic", NULL, 0, 0,                 \
    "group.protocol", MB_TO_GROUP,                                                                 \
    "How members share partitions: classic, by a leader among them, or consumer, by the broker; "  \
    "that needs Kafka 4 and librdkafka 2.12.")                                                     \
  X(session_timeout_ms, "Consumer", integer, NULL, "30000", "ms", 1, 3600000,                      \
    "session.timeout.ms", MB_TO_GROUP | MB_ONLY_CLASSIC,                                           \
    "A member not heard of for this long loses its partitions to the others.")                     \
  X(heartbeat_interval_ms, "Consumer", integer, NULL, "3000", "ms", 1, 3600000,                    \
    "heartbeat.interval.ms", MB_TO_GROUP | MB_ONLY_CLASSIC,                                        \
    "How often a member reports to the group and so learns of changes; unset, at most a third of " \
    "session_timeout_ms (eventsource-py: 10000).")                                                 \
  X(max_poll_interval_ms, "Consumer", integer, NULL, "300000", "ms", 1, 86400000,                  \
    "max.poll.interval.ms", MB_TO_GROUP,                                                           \
    "The longest one handler may run before the group takes the partitions away.")                 \
  X(group_instance_id, "Consumer", string, NULL, NULL, NULL, 0, 0, "group.instance.id",            \
    MB_TO_GROUP,                                                                                   \
    "A name that stays over restarts: a member back within session_timeout_ms keeps its "          \
    "partitions without a rebalance.")                                                             \
  X(static_members, "Consumer", string, NULL, "auto", NULL, 0, 0, NULL, 0,                         \
    "Names of supervised workers in their group: auto (of the host; a stop leaves the group), "    \
    "off, "                                                                                        \
    "or a name that comes back after a stop, whose partitions wait for it.")                       \
  X(partition_assignment_strategy, "Consumer", string, NULL, "roundrobin,range", NULL, 0, 0,       \
    "partition.assignment.strategy", MB_TO_GROUP | MB_ONLY_CLASSIC,                                \
    "How partitions are shared out: roundrobin, range, both in order of preference, or "           \
    "cooperative-sticky alone.")                                                                   \
  X(fetch_max_bytes, "Consumer", integer, NULL, "52428800", "bytes", 1000, 2147483135,             \
    "fetch.max.bytes", MB_TO_CONSUMERS, "The most one fetch brings from a broker.")                \
  X(max_partition_fetch_bytes, "Consumer", integer, NULL, "1048576", "bytes", 1, 1000000000,       \
    "max.partition.fetch.bytes", MB_TO_CONSUMERS, "The most one fetch brings from one partition.") \
  X(fetch_wait_max_ms, "Consumer", integer, NULL, "500", "ms", 0, 59000, "fetch.wait.max.ms",      \
    MB_TO_CONSUMERS, "How long a broker holds a fetch back when it has no new records.")           \
  X(prefetch_max_events, "Consumer", integer, NULL, "50000", "events", 1, 10000000,                \
    "queued.min.messages", MB_TO_CONSUMERS,                                                        \
    "Events fetched ahead, of all partitions together; as much as one fetch brings may be added.") \
  X(prefetch_max_kbytes, "Consumer", integer, NULL, "65536", "KiB", 1, 2097151,                    \
    "queued.max.messages.kbytes", MB_TO_CONSUMERS, "Memory that events fetched ahead may take.")   \
  X(isolation_level, "Consumer", choice, "read_committed|read_uncommitted", "read_committed",      \
    NULL, 0, 0, "isolation.level", MB_TO_CONSUMERS,                                                \
    "Whether records of open and aborted transactions are left out.")                              \
  X(commit_interval_ms, "Consumer", integer, NULL, "1000", "ms", 1, 3600000, NULL, 0,              \
    "Offsets of settled events are committed this often, and on revocation and stop.")             \
  X(commit_interval_events, "Consumer", integer, NULL, "5000", "events", 1, 10000000, NULL, 0,     \
    "Offsets are committed earlier once this many events are settled.")                            \
  X(concurrency, "Consumer", integer, NULL, "1", "events", 1, 1000, NULL, 0,                       \
    "Events of different keys whose handlers may wait at the same time, each in moonbus.sleep or " \
    "moonbus.await; not with delivery = exactly_once.")                                            \
  X(delivery, "Consumer", choice, "at_least_once|exactly_once", "at_least_once", NULL, 0, 0, NULL, \
    0,                                                                                             \
    "exactly_once: what handlers publish on this bus and the offsets of the events they handled "  \
    "are committed in one transaction; needs a real broker.")                                      \
  X(transactional_id, "Consumer", string, NULL, NULL, NULL, 0, 0, NULL, 0,                         \
    "The name under which a transactional producer fences off its earlier lives; unset, it is "    \
    "made of group, topic and group_instance_id or consumer_name.")                                \
  X(transaction_interval_ms, "Consumer", integer, NULL, "200", "ms", 1, 60000, NULL, 0,            \
    "Events handled within this time share a transaction.")                                        \
  X(transaction_max_events, "Consumer", integer, NULL, "20000", "events", 1, 10000000, NULL, 0,    \
    "A transaction is committed earlier once it holds this many events.")                          \
  X(transaction_timeout_ms, "Consumer", integer, NULL, "10000", "ms", 1000, 900000, NULL, 0,       \
    "The broker aborts a transaction left open this long, by a process that died or a handler "    \
    "that takes longer; until then readers of committed records wait for it.")

#define MB__OPTIONS_RETRY(X)                                                                       \
  X(max_retries, "Retries", integer, NULL, "3", NULL, 0, 1000, NULL, 0,                            \
    "Runs of a failed handler after the first; then the event is a dead letter.")                  \
  X(retry_base_delay, "Retries", number, NULL, "1.0", "s", 0.001, 86400, NULL, 0,                  \
    "Wait before the first retry; doubles with each further one.")                                 \
  X(retry_max_delay, "Retries", number, NULL, "60.0", "s", 0.001, 86400, NULL, 0,                  \
    "The longest wait before a retry.")                                                            \
  X(retry_jitter, "Retries", number, NULL, "0.1", NULL, 0, 1, NULL, 0,                             \
    "Part of the wait that is random, so that failures do not come back all at once.")             \
  X(retry_scope, "Retries", choice, "key|partition", "key", NULL, 0, 0, NULL, 0,                   \
    "What waits behind an event that is to be retried: later events of its key, or its whole "     \
    "partition.")                                                                                  \
  X(handler_timeout_ms, "Retries", integer, NULL, "0", "ms", 0, MB__INT32, NULL, 0,                \
    "A handler that runs longer has failed (0 = no limit): with guard = strict it is ended, "      \
    "under "                                                                                       \
    "a supervisor its worker is replaced; else it is only reported once it returns.")              \
  X(guard, "Retries", choice, "fast|strict", "fast", NULL, 0, 0, NULL, 0,                          \
    "What handler_timeout_ms does to a Lua handler in its own process: fast reports it, at full "  \
    "speed; strict ends it, and runs the whole Lua state without LuaJIT's compiler.")              \
  X(lua_memory_max_bytes, "Retries", integer, NULL, "0", "bytes", 0, 1099511627776, NULL, 0,       \
    "A Lua handler that would grow the Lua state beyond this has failed (0 = no limit); the "      \
    "state "                                                                                       \
    "runs without LuaJIT's compiler.")                                                             \
  X(worker_memory_max_bytes, "Retries", integer, NULL, "0", "bytes", 0, 1099511627776, NULL, 0,    \
    "A supervised worker that takes more memory is replaced, and the event it had in hand has "    \
    "failed (0 = no limit).")                                                                      \
  X(retry_parked_max, "Retries", integer, NULL, "1000", "events", 1, 1000000, NULL, 0,             \
    "Events per partition that may wait behind retries before the partition is paused.")           \
  X(retry_parked_max_kbytes, "Retries", integer, NULL, "16384", "KiB", 1, 2097151, NULL, 0,        \
    "Memory per partition that they may take before it is paused.")                                \
  X(enable_dlq, "Dead letters", boolean, NULL, "true", NULL, 0, 0, NULL, 0,                        \
    "Keep events that failed for good in a topic of their own; false drops them, with a warning.") \
  X(on_unknown, "Dead letters", choice, "skip|dlq", "skip", NULL, 0, 0, NULL, 0,                   \
    "What becomes of events that nothing subscribes to: skipped, or dead letters.")                \
  X(on_undecodable, "Dead letters", choice, "dlq|stop", "dlq", NULL, 0, 0, NULL, 0,                \
    "What becomes of records that cannot be decoded: dead letters, or consumption stops in front " \
    "of them.")                                                                                    \
  X(dlq_breaker_run, "Dead letters", integer, NULL, "1000", "events", 0, 1000000000, NULL, 0,      \
    "After so many dead letters in a row, the circuit breaker of their partition opens: the "      \
    "partition is paused until the event "                                                         \
    "that "                                                                                        \
    "would be the next is handled or reset_breaker is called (0 = any number).")                   \
  X(dlq_breaker_ratio, "Dead letters", number, NULL, "0.5", NULL, 0, 1, NULL, 0,                   \
    "The same once this share of the last dlq_breaker_window events are dead letters (0 = any).")  \
  X(dlq_breaker_window, "Dead letters", integer, NULL, "4000", "events", 1, 1000000, NULL, 0,      \
    "The events of a partition that dlq_breaker_ratio is a share of; those not seen yet count as " \
    "handled.")                                                                                    \
  X(dlq_breaker_pause_ms, "Dead letters", integer, NULL, "60000", "ms", 1, MB__INT32, NULL, 0,     \
    "The event that an open circuit breaker holds back is tried again this often.")                \
  X(dlq_topic_suffix, "Dead letters", string, NULL, ".dlq", NULL, 0, 0, NULL, 0,                   \
    "Dead letters go to the topic {topic_prefix}.stream{dlq_topic_suffix}.")                       \
  X(dlq_consumer_group, "Dead letters", string, NULL, NULL, NULL, 0, 0, NULL, 0,                   \
    "The group whose committed offset remembers which dead letters were read; unset, every read "  \
    "begins at the oldest.")                                                                       \
  X(dlq_max_replay_attempts, "Dead letters", integer, NULL, "3", NULL, 0, 1000, NULL, 0,           \
    "How often one dead letter may be replayed unless forced.")

#define MB__OPTIONS_SECURITY(X)                                                                    \
  X(security_protocol, "Security", choice, "PLAINTEXT|SSL|SASL_PLAINTEXT|SASL_SSL", "PLAINTEXT",   \
    NULL, 0, 0, "security.protocol", MB_TO_ALL,                                                    \
    "How to talk to the brokers; production wants SSL or SASL_SSL.")                               \
  X(sasl_mechanism, "Security", choice, "PLAIN|SCRAM-SHA-256|SCRAM-SHA-512|OAUTHBEARER", NULL,     \
    NULL, 0, 0, "sasl.mechanism", MB_TO_ALL | MB_ONLY_SASL,                                        \
    "How to log in; required with SASL_*. OAUTHBEARER: by a token that a token server gives for "  \
    "client credentials.")                                                                         \
  X(sasl_username, "Security", string, NULL, NULL, NULL, 0, 0, "sasl.username",                    \
    MB_TO_ALL | MB_ONLY_SASL, "Who logs in; required with PLAIN and SCRAM-*.")                     \
  X(sasl_password, "Security", string, NULL, NULL, NULL, 0, 0, "sasl.password",                    \
    MB_TO_ALL | MB_ONLY_SASL | MB_SECRET, "The user's password; required with PLAIN and SCRAM-*.") \
  X(sasl_oauthbearer_token_endpoint_url, "Security", string, NULL, NULL, NULL, 0, 0,               \
    "sasl.oauthbearer.token.endpoint.url", MB_TO_ALL | MB_ONLY_OAUTH,                              \
    "URL of the token server, https:// or http://; required with OAUTHBEARER.")                    \
  X(sasl_oauthbearer_client_id, "Security", string, NULL, NULL, NULL, 0, 0,                        \
    "sasl.oauthbearer.client.id", MB_TO_ALL | MB_ONLY_OAUTH,                                       \
    "This client's name at the token server; required with OAUTHBEARER.")                          \
  X(sasl_oauthbearer_client_secret, "Security", string, NULL, NULL, NULL, 0, 0,                    \
    "sasl.oauthbearer.client.secret", MB_TO_ALL | MB_ONLY_OAUTH | MB_SECRET,                       \
    "The client's secret at the token server; required with OAUTHBEARER.")                         \
  X(sasl_oauthbearer_scope, "Security", string, NULL, NULL, NULL, 0, 0, "sasl.oauthbearer.scope",  \
    MB_TO_ALL | MB_ONLY_OAUTH, "The scope that the token is requested for.")                       \
  X(sasl_oauthbearer_extensions, "Security", string, NULL, NULL, NULL, 0, 0,                       \
    "sasl.oauthbearer.extensions", MB_TO_ALL | MB_ONLY_OAUTH,                                      \
    "Extensions of the login for the broker: name=value, separated by commas.")                    \
  X(ssl_cafile, "Security", string, NULL, NULL, NULL, 0, 0, "ssl.ca.location",                     \
    MB_TO_ALL | MB_ONLY_SSL,                                                                       \
    "PEM file of the authorities that vouch for the brokers; unset, the system's.")                \
  X(ssl_certfile, "Security", string, NULL, NULL, NULL, 0, 0, "ssl.certificate.location",          \
    MB_TO_ALL | MB_ONLY_SSL, "PEM file of this client's certificate; needs ssl_keyfile.")          \
  X(ssl_keyfile, "Security", string, NULL, NULL, NULL, 0, 0, "ssl.key.location",                   \
    MB_TO_ALL | MB_ONLY_SSL | MB_SECRET,                                                           \
    "PEM file of the certificate's private key; needs ssl_certfile.")                              \
  X(ssl_keyfile_password, "Security", string, NULL, NULL, NULL, 0, 0, "ssl.key.password",          \
    MB_TO_ALL | MB_ONLY_SSL | MB_SECRET, "Opens ssl_keyfile if it is encrypted.")                  \
  X(ssl_check_hostname, "Security", boolean, NULL, "true", NULL, 0, 0,                             \
    "ssl.endpoint.identification.algorithm", MB_TO_ALL | MB_ONLY_SSL,                              \
    "Insist that a broker's certificate is for the host name it is reached by.")

#define MB__OPTIONS_OBSERVE(X)                                                                     \
  X(enable_metrics, "Observability", boolean, NULL, "true", NULL, 0, 0, NULL, 0,                   \
    "Measure how long publishing and handlers take, for get_metrics; the counters of "             \
    "get_stats_dict are always kept.")                                                             \
  X(enable_tracing, "Observability", boolean, NULL, "true", NULL, 0, 0, NULL, 0,                   \
    "Hand the W3C trace context of an event (traceparent, tracestate, baggage) on to what its "    \
    "handlers publish.")                                                                           \
  X(log_level, "Observability", choice, "error|warn|info|debug", "info", NULL, 0, 0, NULL, 0,      \
    "The least important lines to log.")                                                           \
  X(log_format, "Observability", choice, "text|json", "text", NULL, 0, 0, NULL, 0,                 \
    "Log lines for people, or one JSON object per line.")

/* Options under their old names, which still work: X(old, new). */
#define MB__RENAMED_OPTIONS(X)                                                                     \
  X(dlq_brake_run, dlq_breaker_run)                                                                \
  X(dlq_brake_ratio, dlq_breaker_ratio)                                                            \
  X(dlq_brake_window, dlq_breaker_window)                                                          \
  X(dlq_brake_pause_ms, dlq_breaker_pause_ms)

#endif
