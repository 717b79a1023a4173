---@meta moonbus
-- luacheck: ignore 211 212 241 (declarations use nothing)

-- Annotations of everything public, for editors and for lua-language-server. Never loaded at run
-- time. Failures of the world come back as nil, "CODE: what happened; what to do", "CODE"; the
-- caller's mistakes raise. Times are in seconds unless a name ends in _ms.

---@class moonbus
---@field VERSION string  of moonbus, "0.1.0"
---@field null lightuserdata  JSON's null where nil will not do: in arrays, in undeclared fields
---@field json moonbus.json
---@field log moonbus.log
---@field stores moonbus.stores  where handlers keep what they write, and what they handled
---@field registry moonbus.Registry  where moonbus.event puts types by default
local moonbus = {}

-- ---- errors ----

---@alias moonbus.Code
---| "EINVAL"        # an argument is not valid
---| "ECONFIG"       # an option is unknown or its value is not possible
---| "ENOMEM"        # out of memory or threads
---| "ESTATE"        # not possible in the bus's present state
---| "ECONNECT"      # no broker can be reached
---| "EAUTH"         # the broker refused the credentials or the permission
---| "ETOPIC"        # the topic does not exist or its name is not legal
---| "EFULL"         # the producer queue is full
---| "ETIMEOUT"      # the time allowed ran out
---| "EDELIVERY"     # one or more events were not delivered
---| "EEVENT"        # the event does not fit its type
---| "EDECODE"       # the record's value cannot be decoded
---| "ENOENT"        # no such record, header or subscription
---| "EREPLAY"       # the dead letter was replayed as often as allowed
---| "EUNSUPPORTED"  # this broker or build cannot do that
---| "EFATAL"        # the Kafka client stopped for good
---| "EKAFKA"        # the broker answered with an error
---| "EIO"           # reading or writing failed
---| "ESCRIPT"       # the script has an error
---| "EBREAKER"       # partitions are paused: too many dead letters
---| "ESTORE"        # a store did not do what it was asked
---| "EFENCED"       # another process took this one's place under the same name

---Every code and what it means.
---@return table<moonbus.Code, string>
function moonbus.errors() end

-- ---- events ----

---What a field may be: string, number, integer, boolean, uuid, timestamp, decimal, object, array,
---any; with "?" behind it optional, with "[]" an array of that type: "string[]?".
---@alias moonbus.FieldType string

---@class moonbus.Field
---@field type moonbus.FieldType
---@field optional? boolean  default false
---@field default? any  used when the field is absent; makes it optional

---One step for each older version: [n] takes an event of version n as a plain table with all its
---members, base fields included, and returns it as version n + 1 has it. Base fields that the
---result lacks stay as they were; event_version is set by itself. It runs for every handler and
---every attempt, so it looks at nothing but the data. What it raises, or returns that does not fit
---the declared fields, makes the event undecodable.
---@alias moonbus.Upcast table<integer, fun(data: table): table>

---@class moonbus.EventOptions
---@field registry? moonbus.Registry  default moonbus.registry

---Declare an event type.
---
---fields maps names to types; a base field's name (aggregate_type, event_version, ...) maps to its
---default instead. Fields given by position, { "name", "type" }, keep their order on the wire;
---those given by name follow, sorted. upcast maps a version to the function that lifts its events
---to the next, up to the declared event_version.
---@param name string  1 to 249 bytes of UTF-8
---@param fields? table<string, moonbus.FieldType|moonbus.Field|moonbus.Upcast|any>
---@param options? moonbus.EventOptions
---@return moonbus.EventType
---@raise when the name is declared already, a field's type is unknown, or upcast leads past the
---declared version
function moonbus.event(name, fields, options) end

---Makes events when called with a table of fields.
---@class moonbus.EventType
---@field name string
---@field event_type string  the same
---@field defaults table<string, any>
---@field version integer  the declared event_version, 1 if none is
---@field upcast? moonbus.Upcast
---@overload fun(fields: table): moonbus.Event
local EventType = {}

---An event: a plain table with every base field and every declared field. Optional fields that are
---absent are nil.
---@class moonbus.Event
---@field event_id string  UUID, random unless given
---@field event_type string
---@field event_version integer  the declared one (1) unless given
---@field occurred_at string  ISO 8601; now in UTC unless given. Accepts seconds since 1970 too
---@field aggregate_id string  UUID; it is the record's key
---@field aggregate_type string
---@field aggregate_version integer  1 unless given
---@field tenant_id? string  UUID
---@field actor_id? string
---@field correlation_id string  UUID, random unless given
---@field causation_id? string  UUID
---@field metadata table<string, any>
---@field [string] any  the declared fields
local Event = {}

---Whether the event is of that type.
---@param kind moonbus.EventType|string
---@return boolean
function Event:is(kind) end

---A copy that says what caused it: causation_id is the other's event_id, correlation_id its own.
---@param other moonbus.Event
---@return moonbus.Event
function Event:caused_by(other) end

---A copy with more metadata.
---@param more table<string, any>
---@return moonbus.Event
function Event:with_metadata(more) end

---Event type names and the types declared under them.
---@class moonbus.Registry
---@field types table<string, moonbus.EventType>
local Registry = {}

---A registry of its own, for option event_registry and for moonbus.event's options.
---@return moonbus.Registry
function moonbus.new_registry() end

---@param name string
---@return moonbus.EventType?
function Registry:get(name) end

---The names there are, sorted.
---@return string[]
function Registry:names() end

---Forget a type, so that its name may be declared again.
---@param name string
---@return boolean removed  false if there was none
function Registry:remove(name) end

-- ---- stores, idempotent handlers ----

---@class moonbus.stores
---@field memory fun(options?: moonbus.MemoryOptions): moonbus.Store  what was handled, in memory
---@field sqlite fun(options: moonbus.SQLiteOptions): moonbus.DatabaseStore  a SQLite file
---@field postgres fun(options: moonbus.PostgresOptions): moonbus.DatabaseStore
moonbus.stores = {}

---@class moonbus.MemoryOptions
---@field max? integer  events remembered, 100000; those used longest ago are forgotten

---@class moonbus.SQLiteOptions
---@field path string
---@field busy_timeout_ms? integer  how long another writer is waited for, 5000
---@field init? fun(tx: moonbus.Tx)  makes one's own tables; whenever the store connects

---@class moonbus.PostgresOptions
---@field dsn? string  as libpq takes it: "dbname=orders host=db", "postgresql://..."; or:
---@field host? string
---@field port? integer
---@field dbname? string
---@field user? string
---@field password? string
---@field busy_timeout_ms? integer  how long a lock is waited for, 5000
---@field init? fun(tx: moonbus.Tx)  makes one's own tables; whenever the store connects

---What moonbus.idempotent needs of a store without transactions; one's own may be such.
---@class moonbus.Store
---@field release? fun(self, scope: string, handler: string, event_id: string)  not handled
local Store = {}

---Claim an event for so many seconds; with "claimed", how many another claim holds yet. Any other
---answer, such as nil and a reason, fails the event.
---@return "new"|"done"|"claimed" state, number? left
function Store:claim(scope, handler, event_id, seconds) end

---The event is handled; ttl in seconds, nil: for ever.
function Store:done(scope, handler, event_id, ttl) end

---@alias moonbus.SQLValue nil|lightuserdata|boolean|string|number|ffi.cdata*

---A transaction, good while its handler or function runs. A `?` in a statement stands for each
---value. Errors are raised as "ESTORE: ...", and everything after one fails until it ends.
---@class moonbus.Tx
local Tx = {}

---Execute a statement.
---@param sql string  one statement
---@param ... moonbus.SQLValue
---@return integer changed  rows
---@raise
function Tx:execute(sql, ...) end

---Rows as tables by column name; integers are exact, NULLs absent.
---@param sql string
---@param ... moonbus.SQLValue
---@return table[] rows
---@raise
function Tx:query(sql, ...) end

---The first row.
---@param sql string
---@param ... moonbus.SQLValue
---@return table? row
---@raise
function Tx:one(sql, ...) end

---@class moonbus.DatabaseStore
---@field kind "sqlite"|"postgres"
---@field name string
local DatabaseStore = {}

---Run fn(tx, ...) in a transaction of its own; inside a handler's, as a part of it that is undone
---alone if it fails.
---@generic T
---@param fn fun(tx: moonbus.Tx, ...): T
---@return T
---@raise what fn raises, and "ESTORE: ..."; nothing is kept then
function DatabaseStore:transaction(fn, ...) end

---Whether an idempotent handler is done with an event. scope: the consumer group.
---@return boolean
---@raise
function DatabaseStore:marked(scope, handler, event_id) end

---Close the connection; the next use makes a new one.
function DatabaseStore:close() end

---@class moonbus.IdempotentOptions
---@field store moonbus.DatabaseStore|moonbus.Store
---@field ttl? number  seconds after which a mark may be forgotten; for ever without
---@field name? string  of the handler in the store; needed where several share one. The object's
---name, else "handler"
---@field key? fun(event: moonbus.Event): string  what makes events the same; the event_id without
---@field scope? string  marks of one scope mean nothing to another; the consumer group
---@field claim_ttl? number  without transactions: seconds until an unfinished run is repeated, 60

---A handler that handles each event once, for bus:subscribe and subscribe_all.
---
---With a database store it is called as handler(event, tx, ctx): what it writes through tx and the
---mark that the event is handled are committed together, with those of the other events of a step.
---A handler that waits (moonbus.sleep) holds the transaction meanwhile, and its bus. With other
---stores it is called as handler(event, nil, ctx): the event is claimed, handled, then marked.
---@param handler function|table
---@param options moonbus.IdempotentOptions
---@return table handler
---@raise on unknown or wrong options
function moonbus.idempotent(handler, options) end

-- ---- projections ----

---@alias moonbus.ProjectionHandler
---| fun(self: moonbus.Projection, event: moonbus.Event, context: moonbus.Context): any, string?

---@class moonbus.ProjectionSpec
---@field handles table<moonbus.EventType|string, moonbus.ProjectionHandler>
---@field truncate? fun(self: moonbus.Projection)  empties the read model
---@field [string] any  the projection's own state

---With a store: what it returns and raises counts as for any handler; it is undone if it fails.
---@alias moonbus.ReadModelHandler
---| fun(event: moonbus.Event, tx: moonbus.Tx, context: moonbus.Context): any, string?

---@class moonbus.ReadModelSpec
---@field store moonbus.DatabaseStore  where the read model, its marks and its position are
---@field handles table<moonbus.EventType|string, moonbus.ReadModelHandler>
---@field init? fun(tx: moonbus.Tx)  makes its tables, if they are not there: all it writes to, and
---no others'. Runs when the store connects, and for the second read model of a rebuild
---@field truncate? fun(tx: moonbus.Tx)  empties them; for rebuilds in place
---@field ttl? number  seconds for which an event that was applied is known; nil: for ever

---An object that builds a read model from several event types.
---@class moonbus.Projection
---@field name string
---@field store? moonbus.DatabaseStore
---@field [string] any  what the specification held
local Projection = {}

---With a store, each event is applied once: its writes, its mark and the position are one
---transaction, in which the events of a step share. The name is the read model's, in that store:
---whichever bus and group bring an event, it is applied once.
---@param name string
---@param spec moonbus.ProjectionSpec|moonbus.ReadModelSpec
---@return moonbus.Projection
---@raise when handles is missing or holds something else than types and functions, or an option of
---one with a store is unknown or wrong
function moonbus.projection(name, spec) end

---The types it handles, for bus:subscribe_all.
---@return (moonbus.EventType|string)[]
function Projection:subscribed_to() end

---Apply one event; one that no handler is declared for is left alone. With a store: unless it was
---applied, in a transaction of its own or as a part of the one a handler is in.
---@param event moonbus.Event
---@param context? moonbus.Context
function Projection:handle(event, context) end

---Empty the read model. With a store its marks go too, so that every event is applied again; what
---reads them again is bus:rebuild.
---@raise with a store, when it has no truncate
function Projection:truncate() end

-- ---- handlers ----

---The record an event came in; good only while its handler runs.
---@class moonbus.Context
---@field topic string
---@field partition integer
---@field offset integer
---@field timestamp integer  milliseconds since 1970 as the producer wrote it; -1 if it has none
---@field attempt integer  1 on the first delivery
---@field key? string
---@field value? string  the event as it came, in JSON
---@field event_type string
---@field original_version integer  the event_version on the topic, before the event was lifted
---@field abandoned boolean  the handler waited, and its partition was taken away meanwhile:
---its outcome does not count
---@field traceparent? string  the event's trace context: nil where it has none that is well formed,
---or enable_tracing is false
---@field tracestate? string
---@field baggage? string
---@field headers table<string, string>  the first value of each name, of dlq_ names the last;
---moonbus.null where it is null
local Context = {}

---One header, without reading the others.
---@param name string
---@return string?
function Context:header(name) end

---A handler that raises, or returns nil (or false) and a reason, has failed: it runs again later.
---An error may be a table { type = "Timeout", message = "..." }.
---@alias moonbus.HandlerFunction
---| fun(event: moonbus.Event, context: moonbus.Context): any, string?

---@class moonbus.HandlerObject
---@field handle fun(self: any, event: moonbus.Event, context: moonbus.Context): any, string?

---@alias moonbus.Handler moonbus.HandlerFunction|moonbus.HandlerObject

-- ---- options ----

---@class moonbus.PublishFailure
---@field code moonbus.Code
---@field reason string
---@field event_type string
---@field event_id string

---Every option of a bus. A flag of the program wins over the environment (MOONBUS_<OPTION>), that
---over this table, that over the default.
---@class moonbus.Config
---Properties passed to librdkafka as they are, where no option governs them.
---@field kafka? table<string, string|number|boolean>
---Where the names of arriving events are looked up. Default moonbus.registry.
---@field event_registry? moonbus.Registry
---Receives every event published in the background that was not delivered.
---@field on_publish_error? fun(failure: moonbus.PublishFailure)
---Receives the partitions before they come (on_assigned), before they go (on_revoked: nothing of
---them runs any more, and what is settled is committed once this returns), and once they are gone
---without warning (on_lost).
---@field on_assigned? fun(partitions: integer[])
---@field on_revoked? fun(partitions: integer[])
---@field on_lost? fun(partitions: integer[])
---Receives the log lines instead of stderr.
---@field on_log? fun(level: "error"|"warn"|"info"|"debug", line: string)
---Brokers to ask first, as host:port separated by commas; "embedded" runs one in memory in this
---process. Default localhost:9092.
---@field bootstrap_servers? string
---Events go to the topic {topic_prefix}.stream. Default events.
---@field topic_prefix? string
---Members of one group share the partitions between them; every group sees every event. Default
---default.
---@field consumer_group? string
---This process's name in the broker's logs and group listings; unset, it is made of the host name
---and 8 hex digits. Default unset.
---@field consumer_name? string
---Wait before a new consumer takes the place of one that broke; doubles with each further attempt.
---Lost connections are restored within a second, whatever this is. Default 1000 ms, 0 to 3600000.
---@field reconnect_backoff_ms? integer
---The longest wait between such attempts. Default 60000 ms, 0 to 3600000.
---@field reconnect_backoff_max_ms? integer
---How long disconnecting may take to finish the event in hand and deliver what is queued; a broker
---that does not answer gets a sixth of it. Default 30.0 s, 0 to 86400.
---@field shutdown_timeout? number
---Who has an event before it counts as published: all in-sync replicas (without duplicates), the
---leader alone, or nobody. Default all.
---@field acks? "all"|"1"|"0"
---How batches are compressed. Default gzip.
---@field compression_type? "none"|"gzip"|"snappy"|"lz4"|"zstd"
---The largest batch per partition. Default 16384 bytes, 1 to 2147483647.
---@field batch_size? integer
---How long an event waits for others to share its batch. Default 5 ms, 0 to 900000.
---@field linger_ms? integer
---An event not acknowledged after this time, resends included, is reported as undelivered. Default
---30000 ms, 1 to 2147483647.
---@field delivery_timeout_ms? integer
---How long a publish waits for room when the producer's queue is full. Default 30000 ms, 0 to
---2147483647.
---@field queue_full_timeout_ms? integer
---Events that may wait in the producer's queue. Default 100000 events, 1 to 2147483647.
---@field producer_queue_max_events? integer
---Memory the producer's queue may take. Default 1048576 KiB, 1 to 2147483647.
---@field producer_queue_max_kbytes? integer
---The largest record that may be sent; the broker's own limit has to allow it too. Default 1000000
---bytes, 1000 to 1000000000.
---@field message_max_bytes? integer
---Where a group without a committed offset starts; none makes that an error. Default earliest.
---@field auto_offset_reset? "earliest"|"latest"|"none"
---How members share partitions: classic, by a leader among them, or consumer, by the broker; that
---needs Kafka 4 and librdkafka 2.12. Default classic.
---@field group_protocol? "classic"|"consumer"
---A member not heard of for this long loses its partitions to the others. Default 30000 ms, 1 to
---3600000.
---@field session_timeout_ms? integer
---How often a member reports to the group and so learns of changes; unset, at most a third of
---session_timeout_ms (eventsource-py: 10000). Default 3000 ms, 1 to 3600000.
---@field heartbeat_interval_ms? integer
---The longest one handler may run before the group takes the partitions away. Default 300000 ms, 1
---to 86400000.
---@field max_poll_interval_ms? integer
---A name that stays over restarts: a member back within session_timeout_ms keeps its partitions
---without a rebalance. Default unset.
---@field group_instance_id? string
---Names of supervised workers in their group: auto (of the host; a stop leaves the group), off, or
---a name that comes back after a stop, whose partitions wait for it. Default auto.
---@field static_members? string
---How partitions are shared out: roundrobin, range, both in order of preference, or
---cooperative-sticky alone. Default roundrobin,range.
---@field partition_assignment_strategy? string
---The most one fetch brings from a broker. Default 52428800 bytes, 1000 to 2147483135.
---@field fetch_max_bytes? integer
---The most one fetch brings from one partition. Default 1048576 bytes, 1 to 1000000000.
---@field max_partition_fetch_bytes? integer
---How long a broker holds a fetch back when it has no new records. Default 500 ms, 0 to 59000.
---@field fetch_wait_max_ms? integer
---Events fetched ahead, of all partitions together; as much as one fetch brings may be added.
---Default 50000 events, 1 to 10000000.
---@field prefetch_max_events? integer
---Memory that events fetched ahead may take. Default 65536 KiB, 1 to 2097151.
---@field prefetch_max_kbytes? integer
---Whether records of open and aborted transactions are left out. Default read_committed.
---@field isolation_level? "read_committed"|"read_uncommitted"
---Offsets of settled events are committed this often, and on revocation and stop. Default 1000 ms,
---1 to 3600000.
---@field commit_interval_ms? integer
---Offsets are committed earlier once this many events are settled. Default 5000 events, 1 to
---10000000.
---@field commit_interval_events? integer
---Events of different keys whose handlers may wait at the same time, each in moonbus.sleep or
---moonbus.await; not with delivery = exactly_once. Default 1 events, 1 to 1000.
---@field concurrency? integer
---exactly_once: what handlers publish on this bus and the offsets of the events they handled are
---committed in one transaction; needs a real broker. Default at_least_once.
---@field delivery? "at_least_once"|"exactly_once"
---The name under which a transactional producer fences off its earlier lives; unset, it is made of
---group, topic and group_instance_id or consumer_name. Default unset.
---@field transactional_id? string
---Events handled within this time share a transaction. Default 200 ms, 1 to 60000.
---@field transaction_interval_ms? integer
---A transaction is committed earlier once it holds this many events. Default 20000 events, 1 to
---10000000.
---@field transaction_max_events? integer
---The broker aborts a transaction left open this long, by a process that died or a handler that
---takes longer; until then readers of committed records wait for it. Default 10000 ms, 1000 to
---900000.
---@field transaction_timeout_ms? integer
---Runs of a failed handler after the first; then the event is a dead letter. Default 3, 0 to 1000.
---@field max_retries? integer
---Wait before the first retry; doubles with each further one. Default 1.0 s, 0.001 to 86400.
---@field retry_base_delay? number
---The longest wait before a retry. Default 60.0 s, 0.001 to 86400.
---@field retry_max_delay? number
---Part of the wait that is random, so that failures do not come back all at once. Default 0.1, 0
---to 1.
---@field retry_jitter? number
---What waits behind an event that is to be retried: later events of its key, or its whole
---partition. Default key.
---@field retry_scope? "key"|"partition"
---A handler that runs longer has failed (0 = no limit): with guard = strict it is ended, under a
---supervisor its worker is replaced; else it is only reported once it returns. Default 0 ms, 0 to
---2147483647.
---@field handler_timeout_ms? integer
---What handler_timeout_ms does to a Lua handler in its own process: fast reports it, at full
---speed; strict ends it, and runs the whole Lua state without LuaJIT's compiler. Default fast.
---@field guard? "fast"|"strict"
---A Lua handler that would grow the Lua state beyond this has failed (0 = no limit); the state
---runs without LuaJIT's compiler. Default 0 bytes, 0 to 1.099511628e+12.
---@field lua_memory_max_bytes? integer
---A supervised worker that takes more memory is replaced, and the event it had in hand has failed
---(0 = no limit). Default 0 bytes, 0 to 1.099511628e+12.
---@field worker_memory_max_bytes? integer
---Events per partition that may wait behind retries before the partition is paused. Default 1000
---events, 1 to 1000000.
---@field retry_parked_max? integer
---Memory per partition that they may take before it is paused. Default 16384 KiB, 1 to 2097151.
---@field retry_parked_max_kbytes? integer
---Keep events that failed for good in a topic of their own; false drops them, with a warning.
---Default true.
---@field enable_dlq? boolean
---What becomes of events that nothing subscribes to: skipped, or dead letters. Default skip.
---@field on_unknown? "skip"|"dlq"
---What becomes of records that cannot be decoded: dead letters, or consumption stops in front of
---them. Default dlq.
---@field on_undecodable? "dlq"|"stop"
---After so many dead letters in a row, the circuit breaker of their partition opens: the partition
---is paused until the event that would be the next is handled or reset_breaker is called (0 = any
---number). Default 1000 events, 0 to 1000000000.
---@field dlq_breaker_run? integer
---The same once this share of the last dlq_breaker_window events are dead letters (0 = any).
---Default 0.5, 0 to 1.
---@field dlq_breaker_ratio? number
---The events of a partition that dlq_breaker_ratio is a share of; those not seen yet count as
---handled. Default 4000 events, 1 to 1000000.
---@field dlq_breaker_window? integer
---The event that an open circuit breaker holds back is tried again this often. Default 60000 ms, 1
---to 2147483647.
---@field dlq_breaker_pause_ms? integer
---Dead letters go to the topic {topic_prefix}.stream{dlq_topic_suffix}. Default .dlq.
---@field dlq_topic_suffix? string
---The group whose committed offset remembers which dead letters were read; unset, every read
---begins at the oldest. Default unset.
---@field dlq_consumer_group? string
---How often one dead letter may be replayed unless forced. Default 3, 0 to 1000.
---@field dlq_max_replay_attempts? integer
---How to talk to the brokers; production wants SSL or SASL_SSL. Default PLAINTEXT.
---@field security_protocol? "PLAINTEXT"|"SSL"|"SASL_PLAINTEXT"|"SASL_SSL"
---How to log in; required with SASL_*. OAUTHBEARER: by a token that a token server gives for client
---credentials. Default unset.
---@field sasl_mechanism? "PLAIN"|"SCRAM-SHA-256"|"SCRAM-SHA-512"|"OAUTHBEARER"
---Who logs in; required with PLAIN and SCRAM-*. Default unset.
---@field sasl_username? string
---The user's password; required with PLAIN and SCRAM-*. Default unset.
---@field sasl_password? string
---URL of the token server, https:// or http://; required with OAUTHBEARER. Default unset.
---@field sasl_oauthbearer_token_endpoint_url? string
---This client's name at the token server; required with OAUTHBEARER. Default unset.
---@field sasl_oauthbearer_client_id? string
---The client's secret at the token server; required with OAUTHBEARER. Default unset.
---@field sasl_oauthbearer_client_secret? string
---The scope that the token is requested for. Default unset.
---@field sasl_oauthbearer_scope? string
---Extensions of the login for the broker: name=value, separated by commas. Default unset.
---@field sasl_oauthbearer_extensions? string
---PEM file of the authorities that vouch for the brokers; unset, the system's. Default unset.
---@field ssl_cafile? string
---PEM file of this client's certificate; needs ssl_keyfile. Default unset.
---@field ssl_certfile? string
---PEM file of the certificate's private key; needs ssl_certfile. Default unset.
---@field ssl_keyfile? string
---Opens ssl_keyfile if it is encrypted. Default unset.
---@field ssl_keyfile_password? string
---Insist that a broker's certificate is for the host name it is reached by. Default true.
---@field ssl_check_hostname? boolean
---Measure how long publishing and handlers take, for get_metrics; the counters of get_stats_dict
---are always kept. Default true.
---@field enable_metrics? boolean
---Hand the W3C trace context of an event (traceparent, tracestate, baggage) on to what its handlers
---publish. Default true.
---@field enable_tracing? boolean
---The least important lines to log. Default info.
---@field log_level? "error"|"warn"|"info"|"debug"
---Log lines for people, or one JSON object per line. Default text.
---@field log_format? "text"|"json"

---One row of the option table.
---@class moonbus.Option
---@field key string
---@field section string
---@field type "string"|"integer"|"number"|"boolean"|"choice"
---@field choices? string  "a|b|c"
---@field default? string  nil: unset
---@field unit? string  "ms", "s", "bytes", "KiB", "events"
---@field min number
---@field max number
---@field kafka? string  the librdkafka property it sets
---@field secret boolean
---@field help string

---The option table, in the order of the reference.
---@return moonbus.Option[]
function moonbus.options() end

-- ---- the bus ----

---@class moonbus.Bus
---The options in force, read only; also topic_name and dlq_topic_name. Secrets are "***".
---@field config moonbus.Config|{ topic_name: string, dlq_topic_name: string }
---@field registry moonbus.Registry
local Bus = {}

---Make a bus; nothing connects yet.
---@param config moonbus.Config
---@return moonbus.Bus
---@raise ECONFIG: names the option that is unknown or not possible, and what would be right
function moonbus.bus(config) end

---Run a function with a connected bus, and disconnect on every way out. Errors pass through.
---@generic T
---@param config moonbus.Config
---@param body fun(bus: moonbus.Bus): T
---@return T? result  whatever body returns
---@return string? err  when the bus cannot connect
---@return moonbus.Code? code
function moonbus.with(config, body) end

---Connect to the broker and find the topic; does not join the consumer group. Connected already:
---true at once.
---@param timeout? number  seconds, default 10
---@return true? ok
---@return string? err
---@return moonbus.Code? code  ECONNECT, EAUTH, ETOPIC or ECONFIG
function Bus:connect(timeout) end

---Stop consuming, deliver what is queued, close. Twice does no harm.
---@return true? ok
---@return string? err
---@return moonbus.Code? code  EDELIVERY: some were still undelivered after shutdown_timeout;
---ESTATE: called from a handler of this bus
function Bus:disconnect() end

---@return boolean
function Bus:is_connected() end

---@return boolean
function Bus:is_consuming() end

---@class moonbus.Receipt
---@field count integer
---@field partitions? integer[]  by the events' order; not for background
---@field offsets? integer[]

---@class moonbus.Undelivered
---@field index integer  which of the events
---@field event_id string
---@field code moonbus.Code
---@field reason string

---@class moonbus.PublishOptions
---@field background? boolean  return once they are queued
---@field traceparent? string|false  "00-<32 hex digits>-<16 hex digits>-<2 hex digits>", lower case
---@field tracestate? string|false  up to 512 bytes of ASCII
---@field baggage? string|false  up to 8192 bytes of ASCII

---Publish events and wait for every delivery report; with background, return once they are queued.
---A plain table with the base fields is an event of an undeclared type.
---@param events moonbus.Event|moonbus.Event[]
---With enable_tracing an event carries the W3C trace context of the event whose handler publishes
---it, or what is given here: traceparent and tracestate together, baggage by itself; false is none.
---@param options? moonbus.PublishOptions
---@return moonbus.Receipt? receipt
---@return string? err
---@return moonbus.Code? code  EDELIVERY, EFULL or ETIMEOUT
---@return moonbus.Undelivered[]|integer|nil failures  in background: how many were queued
---@raise when the bus is not connected, or an event does not fit its type (none is sent then), or
---the trace context is malformed
function Bus:publish(events, options) end

---Wait until everything published in the background is delivered or has failed.
---@param timeout? number  seconds, default 30
---@return true? ok
---@return string? err
---@return moonbus.Code? code  ETIMEOUT
function Bus:flush(timeout) end

---@class moonbus.SubscriptionOptions
---@field name? string  in dead letters; default: a table's name field, or where a function stands
---@field max_retries? integer  of this handler; default: the bus's
---@field retry_if? fun(err: any, context: moonbus.Context): boolean  whether a failure is worth a
---retry; false makes the event a dead letter at once
---@field tenant_id? string|false|(string|false)[]  only events of this tenant, or of one in the
---list; false stands for events without a tenant

---Call the handler with every event of the type. An undeclared type is named by a string.
---@param kind moonbus.EventType|string
---@param handler moonbus.Handler
---@param options? moonbus.SubscriptionOptions
---@return moonbus.Bus self
function Bus:subscribe(kind, handler, options) end

---Subscribe an object to every type that its subscribed_to() lists.
---@param object moonbus.Projection|table
---@param options? moonbus.SubscriptionOptions  of every one of them
---@return moonbus.Bus self
function Bus:subscribe_all(object, options) end

---Call the handler with every event of any type, after the handlers of its type.
---@param handler moonbus.Handler
---@param options? moonbus.SubscriptionOptions
---@return moonbus.Bus self
function Bus:subscribe_to_all_events(handler, options) end

---Take one subscription back.
---@param kind moonbus.EventType|string
---@param handler moonbus.Handler  the very function or object
---@return boolean removed  false if there is none such
function Bus:unsubscribe(kind, handler) end

---@param handler moonbus.Handler
---@return boolean removed
function Bus:unsubscribe_from_all_events(handler) end

---Take all subscriptions back.
function Bus:clear_subscribers() end

---How many handlers a type has; without an argument, all together.
---@param kind? moonbus.EventType|string
---@return integer
function Bus:subscriber_count(kind) end

---For stores, in a handler: store:end_unit(keep) is called at the end of the step, before any
---offset is committed (keep = false: its events are read again; it returns false and a reason when
---what was done is lost), and store:undo() when the handler fails.
---@param store table
function Bus:join_unit(store) end

---How many handlers see all events.
---@return integer
function Bus:wildcard_subscriber_count() end

---@class moonbus.ConsumeOptions
---@field auto_reconnect? boolean  default true; false: a lost connection ends it with an error
---@field until_idle? number  seconds: stop once nothing came for so long and all is handled
---@field for_seconds? number  stop after so long

---Join the group and consume until stopped, or until a limit is reached.
---@param options? moonbus.ConsumeOptions
---@return true? ok
---@return string? err
---@return moonbus.Code? code  ESTATE, ETOPIC, ECONNECT, EAUTH, EFENCED, EFATAL
function Bus:start_consuming(options) end

---Join the group and return; events are handled whenever the script waits: in task:wait,
---moonbus.sleep, or start_consuming of another bus.
---@param options? moonbus.ConsumeOptions
---@return moonbus.Task? task
---@return string? err
---@return moonbus.Code? code
function Bus:start_consuming_in_background(options) end

---Stop: the event in hand is finished, offsets are committed, the group is left. Inside a handler
---of this bus it returns at once, and consumption ends after the handler.
---@return true
function Bus:stop_consuming() end

---@class moonbus.RebuildOptions
---@field in_place? boolean  empty the read model and fill it again; so it is anyway without init
---@field partial? boolean  though the topic does not hold all that the read model was made from
---@field skip_failed? boolean  leave events out that fail after all retries
---@field on_progress? fun(events: integer, read: integer, size: integer)  events given to handlers;
---records read, of at most so many that there are
---@field on_retry? fun(why: string, seconds: number)  something failed; it goes on after a while

---@class moonbus.Rebuilt
---@field events integer  given to handlers
---@field applied integer  those that were new: an event may be in the topic twice
---@field skipped { partition: integer, offset: integer, reason: string }[]  left out
---@field seconds number
---@field in_place boolean
---@field stopped boolean  it was interrupted, and has not changed the read model

---Build the read model of a projection with a store again, from the beginning of the bus's topic,
---outside any group; other connected buses and this one go on meanwhile. Nothing that is published
---or applied meanwhile is lost or doubled: a second read model takes the first one's place in a
---transaction that keeps its other writers out. In place, readers see it grow, and events that come
---to it otherwise are left to the rebuild.
---@param projection moonbus.Projection
---@param options? moonbus.RebuildOptions
---@return moonbus.Rebuilt? result
---@return string? err  also whether the read model is as it was
---@return moonbus.Code? code  ESCRIPT a handler failed, EDECODE, ETOPIC the topic's beginning is
---gone, ESTORE, or of Kafka
---@raise when the projection has no store, neither init nor truncate, or the bus is not connected
function Bus:rebuild(projection, options) end

---A record as read from outside any group.
---@class moonbus.Record
---@field topic string
---@field partition integer
---@field offset integer
---@field timestamp integer  milliseconds since 1970
---@field key? string
---@field value? string
---@field headers table<string, string>

---@class moonbus.DeadLetter: moonbus.Record
---@field payload any  the decoded value; its bytes in hexadecimal if it is not JSON
---@field replay_count integer

---Which dead letters: every field narrows.
---@class moonbus.DeadLetterFilter
---@field event_type? moonbus.EventType|string
---@field key? string  the record's key, or the event's aggregate_id
---@field reason? string  dlq_reason
---@field error_type? string  dlq_error_type
---@field failed_group? string  the group whose handlers failed
---@field since? number|string  dead from then on: seconds since 1970, or ISO 8601
---@field until? number|string  dead before then
---@field partition? integer  of the letter
---@field offset? integer|{ [1]: integer?, [2]: integer? }  of the letter: one, or first and last
---@field original_partition? integer  of the event that failed
---@field original_offset? integer|{ [1]: integer?, [2]: integer? }
---@field where? fun(letter: moonbus.DeadLetter): boolean  any other test

---@class moonbus.DeadLetterOptions: moonbus.DeadLetterFilter
---@field limit? integer  default 100
---@field timeout_ms? integer  give up (ETIMEOUT) when no record came for so long, however long the
---whole read takes; default 60000
---@field use_consumer_group? boolean  go on where the last such call ended, by the committed
---offsets of dlq_consumer_group; goes with no filter

---The dead letters, oldest first within a partition.
---@param options? moonbus.DeadLetterOptions
---@return moonbus.DeadLetter[]? letters
---@return string? err
---@return moonbus.Code? code
---@return moonbus.DeadLetter[]? so_far  with an error
function Bus:get_dlq_messages(options) end

---Look at dead letters one at a time, so that their number does not matter. Each also has
---header_list: { {name, value or moonbus.null}, ... } as on the wire.
---@param filter moonbus.DeadLetterFilter  may have timeout_ms as get_dlq_messages does
---@param fn fun(letter: moonbus.DeadLetter): boolean?  false ends
---@return true? ok
---@return string? err
---@return moonbus.Code? code
function Bus:each_dlq_message(filter, fn) end

---How many dead letters there are. They are read, as offsets also go to what is no record: markers
---of transactions, and what compaction took away.
---@return integer? count
---@return string? err
---@return moonbus.Code? code
function Bus:get_dlq_message_count() end

---Put a dead letter back on the main topic, with its key, value and headers, and wait for the ack.
---@param options { partition: integer, offset: integer, force?: boolean }
---@return true? ok
---@return string|integer|nil err  or the partition it went to
---@return moonbus.Code|integer|nil code  ENOENT, EREPLAY, EDELIVERY; or the offset there
function Bus:replay_dlq_message(options) end

---@class moonbus.ReplayOptions: moonbus.DeadLetterFilter
---@field limit? integer  at most so many are put back; the next call goes on after them
---@field to? string  the topic they are put on; default: the main topic
---@field group? boolean|string  true: only the group that failed handles them; a name: only that
---one; false: every group; default: as it was before
---@field dry_run? boolean  report what would be done, write nothing
---@field rate? number  at most so many a second; the bus goes on meanwhile
---@field again? boolean  also those that were replayed already and did not die since
---@field force? boolean  also those that dlq_max_replay_attempts refuses
---@field on_letter? fun(letter: moonbus.ReplayedLetter, state: moonbus.ReplayState): boolean?
---receives each letter, in place of the list; false ends

---@class moonbus.ReplayState
---@field done integer  letters looked at
---@field total integer

---@class moonbus.ReplayedLetter
---@field outcome "replayed"|"refused"|"failed"|"skipped"  on a dry run: what it would be
---@field reason? string  unless replayed
---@field code? moonbus.Code  of what was refused or failed
---@field partition integer  of the letter
---@field offset integer
---@field event_type? string
---@field event_id? string
---@field key? string
---@field replay_count integer  replays of its event, this one included
---@field to_partition? integer  where it went
---@field to_offset? integer

---@class moonbus.ReplayResult
---@field replayed integer
---@field refused integer  replayed dlq_max_replay_attempts times already
---@field failed integer
---@field skipped integer  replayed already, or left out by the filter
---@field more boolean  limit left some, or there were more than 1,000,000
---@field stopped boolean  stop_consuming, an interrupt or on_letter ended it
---@field letters? moonbus.ReplayedLetter[]  those the filter leaves; on a dry run all

---Put many dead letters back, each acknowledged before it counts, the events of a key in the order
---of their original offsets. Those replayed since they died are skipped.
---@param options? moonbus.ReplayOptions
---@return moonbus.ReplayResult? result
---@return string? err
---@return moonbus.Code? code  ESTATE, ETOPIC, EINVAL, ECONNECT and the like
---@return moonbus.ReplayResult? so_far  with an error that came on the way
---@raise an option that is unknown or not possible; what where or on_letter raise
function Bus:replay_dlq(options) end

---@class moonbus.Stats
---@field events_published integer  acknowledged by the broker
---@field events_consumed integer
---@field events_processed_success integer
---@field events_processed_failed integer  attempts in which a handler failed
---@field messages_sent_to_dlq integer
---@field handler_errors integer
---@field reconnections integer
---@field rebalance_count integer  assignments of partitions
---@field last_publish_at string|lightuserdata  ISO 8601, or moonbus.null for never
---@field last_consume_at string|lightuserdata
---@field last_error_at string|lightuserdata
---@field connected_at string|lightuserdata
---@field publish_errors integer  events that were not delivered
---@field retries integer  handler runs beyond the first
---@field events_expired integer  offsets that the log no longer held when the group came to them
---@field events_skipped integer  nothing subscribes to them, or they are for another group
---@field events_dropped integer  failed for good while enable_dlq was false
---@field events_running integer  their handlers wait now: see option concurrency
---@field events_parked integer  waiting now: for a retry, behind one, or for a dead letter's ack
---@field transactions_committed integer  with delivery = "exactly_once"
---@field transactions_aborted integer
---@field handler_invocations integer  calls of handlers that went well
---@field handler_timeouts integer  runs of an event's handlers over handler_timeout_ms
---@field publish_queued integer  handed to the producer, not acknowledged yet
---@field lag integer  offsets behind the ends of the assigned partitions; -1 unknown
---@field assigned_count integer  partitions this member owns
---@field breakers_open integer  those of them that dead letters stopped
---@field health "green"|"yellow"|"red"

---@return moonbus.Stats
function Bus:get_stats_dict() end

---How many events were skipped, as nothing subscribes to them, by event type: { OrderShipped = 3 }.
---Under "" those of further types, where there are more than 64.
---@return table<string, integer>
function Bus:get_skipped_types() end

---@class moonbus.Metric
---@field kind "counter"|"gauge"|"histogram"
---@field unit string  "messages", "invocations", "errors", "reconnections", "rebalances",
---"connections"; histograms have "ms" or "messages"
---@field value? number  of a counter or gauge
---@field partitions? table<integer, integer>  of kafka.eventbus.consumer.lag: by partition
---@field count? integer  of a histogram, as all that follow
---@field sum? number
---@field max? number
---@field p50? number  exact to an eighth, like the others
---@field p95? number
---@field p99? number

---Metrics by name, since the bus was made: kafka.eventbus.messages.published and the like.
---@return table<string, moonbus.Metric>? metrics  nil with enable_metrics = false
function Bus:get_metrics() end

---@class moonbus.HealthReason
---@field status "yellow"|"red"
---@field code string  not_connected, no_broker, no_leader, no_answer, refused, producer_fatal,
---consumption_ended, consumer_broken, commits_refused, transactions_failing, breaker_open,
---dlq_unwritable; joining, partition_full, handlers_waiting
---@field text string  what is wrong and what to do
---@field partition? integer

---@class moonbus.Health
---@field status "green"|"yellow"|"red"  the worst of the reasons; green has none
---@field reasons moonbus.HealthReason[]

---How the bus is at this moment.
---@return moonbus.Health
function Bus:get_health() end

---Close the circuit breaker of a partition, which dead letters opened: the event it held back runs
---at once, and may become a dead letter, like those after it.
---@param partition? integer  default: all this member has
---@return integer? reset  how many were open
---@return string? err
---@return moonbus.Code? code  ENOENT: that partition's is not open
function Bus:reset_breaker(partition) end

---The old name of reset_breaker.
---@deprecated
---@param partition? integer
---@return integer? reset
---@return string? err
---@return moonbus.Code? code
function Bus:release_brake(partition) end

---@class moonbus.TopicInfo
---@field topic string
---@field partitions integer
---@field consumer_group string
---@field connected boolean
---@field consuming boolean

---@return moonbus.TopicInfo? info
---@return string? err
---@return moonbus.Code? code
function Bus:get_topic_info() end

---@class moonbus.ReadOptions
---@field topic? string  default: the bus's own
---@field partition? integer  default -1: all
---@field offset? integer  default -1: the beginning; -2: only new records; -3 - N: the last N each
---@field follow? boolean  default false: end where the topic ended when the read began
---@field timeout_ms? integer  default -1: none

---Read records from outside any group; fn returns false to end.
---@param options moonbus.ReadOptions
---@param fn fun(record: moonbus.Record): boolean?
---@return true? ok
---@return string? err
---@return moonbus.Code? code
function Bus:read(options, fn) end

-- ---- waiting ----

---A consumption in the background.
---@class moonbus.Task
local Task = {}

---Wait until the consumption ends, running every bus of the script meanwhile.
---@param timeout? number  seconds; none unless given
---@return true? ok
---@return string? err
---@return moonbus.Code? code  ETIMEOUT: still consuming; ESTATE: called in a handler of its bus;
---else what broke it
function Task:wait(timeout) end

---Ask the consumption to end; returns at once.
function Task:cancel() end

---Whether it has ended.
---@return boolean
function Task:done() end

---Let time pass; every bus that consumes goes on meanwhile. Inside a handler the other buses do;
---with concurrency above 1 its own, too, unless the handler is in a coroutine of its own making or
---in a store's transaction.
---@param seconds number
function moonbus.sleep(seconds) end

---Wait until a descriptor can be read or written, has ended or failed. Others go on meanwhile, as
---with moonbus.sleep.
---@param fd integer|table|userdata  a descriptor, or an object whose getfd() is one
---@param what? "r"|"w"|"rw"  what to wait for; "r"
---@param timeout? number  seconds; for ever
---@return "r"|"w"|"rw"|nil came  what it can be
---@return string? err
---@return "ETIMEOUT"|"EINVAL"|nil code  EINVAL: it is no open descriptor
---@raise on wrong arguments
function moonbus.await(fd, what, timeout) end

---From inside a handler: the event becomes a dead letter now, without retries. Does not return.
---@param reason? string
function moonbus.dead(reason) end

---From inside a handler: the event has failed, and runs again after so many seconds, up to
---max_retries like any other. Does not return.
---@param options? { after?: number, reason?: string }  after in seconds; default the usual backoff
---@raise after is no number of seconds
function moonbus.retry(options) end

---What shall become of an event that is not its aggregate's next: it runs again later, up to
---max_retries as any other failed one; it becomes a dead letter at once; or it is passed over.
---@alias moonbus.VersionChoice "retry"|"dead"|"skip"

---@class moonbus.VersionOptions
---Returns the aggregate_version that is applied already, from where the handler writes it together
---with its effect; nil for an aggregate not known yet. It gets what the handler gets.
---@field current fun(event: moonbus.Event, ...: any): integer?
---@field on_gap? moonbus.VersionChoice  versions between are missing; default "retry"
---@field on_repeat? moonbus.VersionChoice  it is applied already; default "skip"
---@field first? integer  the version of an aggregate's first event, default 1

---A handler that applies only the next aggregate_version of each aggregate, to be subscribed or
---given to another such function; its failures are of type VersionGap and VersionRepeat. What comes
---with the event, a context or a transaction, goes to current and to the handler.
---@param handler moonbus.Handler
---@param options moonbus.VersionOptions
---@return moonbus.HandlerObject
---@raise when the handler or an option is none
function moonbus.expect_version(handler, options) end

-- ---- values ----

---Mark a table as an array: moonbus.array{} is written as [], a plain empty table as {}.
---@generic T: table
---@param table? T
---@return T
function moonbus.array(table) end

---A number that is written with a decimal point even where it is whole: 1.0, not 1.
---@param number number
---@return ffi.cdata*
function moonbus.float(number) end

---Integers are exact both ways: beyond 2^53 they are int64_t or uint64_t.
---@class moonbus.json
moonbus.json = {}

---@param value any
---@return string? text
---@return string? err  what has no place in JSON
function moonbus.json.encode(value) end

---Nulls are moonbus.null, arrays keep their mark.
---@param text string
---@return any value
---@return string? err
function moonbus.json.decode(text) end

-- ---- small ones ----

---Seconds on a clock that only goes forward.
---@return number
function moonbus.now() end

---Lines in the log of the bus whose handler this is, else of the bus made last, else of the
---program; in its form, from its level on. With log_format json a line of a handler also names the
---event.
---@class moonbus.log
moonbus.log = {}

---@param message string
---@param fields? table<string, any> details, at most 32: as name=value in text, as members in JSON,
---where a name that the line has already gets an underscore
function moonbus.log.debug(message, fields) end

---@param message string
---@param fields? table<string, any>
function moonbus.log.info(message, fields) end

---@param message string
---@param fields? table<string, any>
function moonbus.log.warn(message, fields) end

---@param message string
---@param fields? table<string, any>
function moonbus.log.error(message, fields) end

---A random UUID; with a name, such as a business key, the version 5 UUID of RFC 9562: the same name
---in the same name space gives the same UUID, here and in other languages (Python:
---uuid.uuid5(uuid.NAMESPACE_URL, name)). A name that is nil or empty raises.
---@param name? string  "order-17"
---@param namespace? string  a UUID; default: that of URLs, 6ba7b811-9dad-11d1-80b4-00c04fd430c8
---@return string
function moonbus.uuid(name, namespace) end

---Seconds since 1970 as ISO 8601 in UTC.
---@param seconds? number  default: now
---@return string
function moonbus.timestamp(seconds) end

---ISO 8601 to seconds since 1970.
---@param text string
---@return number?  nil if it is no timestamp
function moonbus.epoch(text) end

---The partition that events with this key go to.
---@param key string  the aggregate_id
---@param partitions integer  how many the topic has
---@return integer
function moonbus.partition_of(key, partitions) end

---Whether Kafka can be used from here.
---@return boolean
function moonbus.available() end

---@class moonbus.Features
---@field moonbus string
---@field librdkafka string
---@field luajit string
---@field abilities table<string, true>  "ssl", "sasl_scram", "zstd", ...
---@field requirements moonbus.Requirement[]

---Something that a configuration may ask for and that not every librdkafka can do.
---@class moonbus.Requirement
---@field what string
---@field since string  the first version that can do it
---@field feature? string  an entry that `abilities` must have, too
---@field met boolean  whether the librdkafka in use can
---@field why? string  where it cannot: which is in use, which is needed, how to install it

---Versions of what moonbus stands on, librdkafka's built-in abilities, and what needs which of its
---versions.
---@return moonbus.Features
function moonbus.features() end

return moonbus
