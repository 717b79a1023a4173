/* kafka/calls.c: the functions of librdkafka that may hold their caller for longer than their
 * timeout, each as a call with a deadline.
 * Must not know what a call is for: its caller judges the answer. No other file calls these
 * functions.
 *
 * Which functions may hold their caller for longer than their timeout (read in 2.0.2 and 2.8.0, and
 * in the development branch after 2.14). M: the function has no timeout and waits for librdkafka's
 * main thread, which itself waits for kinit (GSSAPI), and from 2.10 on for the threads of brokers
 * that left the cluster.
 *
 *   rd_kafka_new                    60 s for its threads; reads certificates        guarded, 10 s
 *   rd_kafka_destroy_flags          joins every thread, one may resolve a name; a   guarded
 *                                   leaked record blocks it; 1 s for telemetry
 *   init, commit, abort_transaction M, after the part that has a timeout            guarded, lost
 *   begin_transaction               M                                               guarded, lost
 *   send_offsets_to_transaction     M; its timeout is left to requests, which lose  guarded, lost
 *                                   their broker from 2.10 on: 600 s
 *   metadata, committed,            no; guarded because connections are made and    guarded
 *   offsets_for_times               names resolved meanwhile
 *   query_watermark_offsets         yes: no timeout once the requests are sent,     guarded
 *                                   before 2.12
 *   commit, synchronous             yes: no timeout                                 guarded
 *   consumer_group_metadata         M                                               guarded
 *   memberid                        M                                               guarded
 *   rebalance_protocol              M                                               guarded, lost
 *   (un)subscribe, assign,          M                                               guarded, lost
 *   incremental_(un)assign,
 *   pause_, resume_partitions
 *   mock_cluster_destroy            waits for the cluster's thread                  guarded
 *   metadata, offsets_for_times     no: they send their requests and return         called directly
 *   with a timeout of 0
 *   purge                           waits for brokers' threads, but not with        called directly
 *                                   RD_KAFKA_PURGE_F_NON_BLOCKING: always given
 *   flush, poll, consumer_poll,     no; callbacks run in here, which are the bus's  called directly
 *   queue_poll
 *   consumer_close_queue,           no: they hand over a request and return         called directly
 *   consumer_closed, commit_queue,
 *   commit, asynchronous, seek with
 *   a timeout of 0, CreateTopics,
 *   DescribeConfigs, produceva
 *   clusterid with a timeout of 0,  no: local                                       called directly
 *   get_watermark_offsets,
 *   assignment_lost, fatal_error,
 *   outq_len, topic_new, *_destroy
 *   of lists, topics, queues
 *   mock_cluster_new, _topic_create no: the mock cluster's thread only serves       called directly
 */
#include "kafka/client_internal.h"

#include <stdlib.h>
#include <string.h>

#define MAIN_MS 5000 /* for a round trip to librdkafka's main thread */

/* ---- questions ---- */

static rd_kafka_topic_partition_list_t *list_copy(const rd_kafka_topic_partition_list_t *list) {
  return list ? rd_kafka_topic_partition_list_copy(list) : NULL;
}

/* The code of a call that was made, or not. */
static rd_kafka_resp_err_t end_call(mb_call *c, bool made) {
  if (!made) return RD_KAFKA_RESP_ERR__TIMED_OUT;
  rd_kafka_resp_err_t err = c->err;
  mb__call_free(c);
  return err;
}

static void run_metadata(rd_kafka_t *rk, mb_call *c) {
  rd_kafka_topic_t *topic = c->topic ? rd_kafka_topic_new(rk, c->topic, NULL) : NULL;
  if (c->topic && !topic) {
    c->err = RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION;
    return;
  }
  c->err = rd_kafka_metadata(rk, !topic, topic, &c->metadata, c->timeout_ms);
  if (topic) rd_kafka_topic_destroy(topic);
}

rd_kafka_resp_err_t mb__client_metadata(mb_client *client, const char *topic,
                                        const struct rd_kafka_metadata **metadata, int timeout_ms) {
  mb_call *c = mb__call_new(client, "rd_kafka_metadata", run_metadata, timeout_ms, false);
  if (!c || (topic && !(c->topic = strdup(topic)))) {
    if (c) mb__call_free(c);
    return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  }
  bool made = mb__call_make(c);
  if (made && !c->err) {
    *metadata = c->metadata;
    c->metadata = NULL;
  }
  return end_call(c, made);
}

static void run_watermarks(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_query_watermark_offsets(rk, c->topic, c->partition, &c->low, &c->high,
                                            c->timeout_ms);
}

rd_kafka_resp_err_t mb__client_watermarks(mb_client *client, const char *topic, int32_t partition,
                                          int64_t *low, int64_t *high, int timeout_ms) {
  mb_call *c =
      mb__call_new(client, "rd_kafka_query_watermark_offsets", run_watermarks, timeout_ms, false);
  if (!c || !(c->topic = strdup(topic))) {
    if (c) mb__call_free(c);
    return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  }
  c->partition = partition;
  bool made = mb__call_make(c);
  if (made && !c->err) {
    *low = c->low;
    *high = c->high;
  }
  return end_call(c, made);
}

/* A call with a list, which is replaced by what the call made of it. */
static rd_kafka_resp_err_t ask_list(mb_client *client, const char *name,
                                    void (*run)(rd_kafka_t *, mb_call *),
                                    rd_kafka_topic_partition_list_t **list, int timeout_ms) {
  mb_call *c = mb__call_new(client, name, run, timeout_ms, false);
  if (!c) return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  c->list = list_copy(*list);
  bool made = mb__call_make(c);
  if (made && !c->err) {
    rd_kafka_topic_partition_list_t *given = *list;
    *list = c->list;
    c->list = given;
  }
  return end_call(c, made);
}

static void run_committed(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_committed(rk, c->list, c->timeout_ms);
}

rd_kafka_resp_err_t mb__client_committed(mb_client *client, rd_kafka_topic_partition_list_t **list,
                                         int timeout_ms) {
  return ask_list(client, "rd_kafka_committed", run_committed, list, timeout_ms);
}

static void run_offsets_for_times(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_offsets_for_times(rk, c->list, c->timeout_ms);
}

rd_kafka_resp_err_t mb__client_offsets_for_times(mb_client *client,
                                                 rd_kafka_topic_partition_list_t **list,
                                                 int timeout_ms) {
  return ask_list(client, "rd_kafka_offsets_for_times", run_offsets_for_times, list, timeout_ms);
}

static void run_commit(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_commit(rk, c->list, 0);
}

rd_kafka_resp_err_t mb__client_commit(mb_client *client,
                                      const rd_kafka_topic_partition_list_t *list, int timeout_ms) {
  mb_call *c = mb__call_new(client, "rd_kafka_commit", run_commit, timeout_ms, false);
  if (!c) return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  c->list = list_copy(list);
  return end_call(c, mb__call_make(c));
}

static void run_member(rd_kafka_t *rk, mb_call *c) {
  c->member = rd_kafka_consumer_group_metadata(rk);
}

rd_kafka_consumer_group_metadata_t *mb__client_member(mb_client *client) {
  mb_call *c = mb__call_new(client, "rd_kafka_consumer_group_metadata", run_member, MAIN_MS, false);
  if (!c || !mb__call_make(c)) return NULL;
  rd_kafka_consumer_group_metadata_t *member = c->member;
  c->member = NULL;
  mb__call_free(c);
  return member;
}

static void run_member_id(rd_kafka_t *rk, mb_call *c) {
  char *id = rd_kafka_memberid(rk);
  c->flag = id != NULL;
  snprintf(c->text, sizeof c->text, "%s", id ? id : "");
  if (id) rd_kafka_mem_free(rk, id);
}

bool mb__client_member_id(mb_client *client, char *id, size_t size) {
  mb_call *c = mb__call_new(client, "rd_kafka_memberid", run_member_id, MAIN_MS, false);
  if (!c || !mb__call_make(c)) return false;
  bool known = c->flag;
  if (known) snprintf(id, size, "%s", c->text);
  mb__call_free(c);
  return known;
}

static void run_protocol(rd_kafka_t *rk, mb_call *c) {
  const char *protocol = rd_kafka_rebalance_protocol(rk);
  c->flag = protocol && !strcmp(protocol, "COOPERATIVE");
}

bool mb__client_is_cooperative(mb_client *client) {
  mb_call *c = mb__call_new(client, "rd_kafka_rebalance_protocol", run_protocol, MAIN_MS, true);
  if (!c || !mb__call_make(c)) return false;
  bool cooperative = c->flag;
  mb__call_free(c);
  return cooperative;
}

/* ---- changes ---- */

static rd_kafka_resp_err_t change(mb_client *client, const char *name,
                                  void (*run)(rd_kafka_t *, mb_call *),
                                  const rd_kafka_topic_partition_list_t *list, bool flag) {
  mb_call *c = mb__call_new(client, name, run, MAIN_MS, true);
  if (!c) return RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE;
  c->list = list_copy(list);
  c->flag = flag;
  return end_call(c, mb__call_make(c));
}

static void run_subscribe(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_subscribe(rk, c->list);
}

rd_kafka_resp_err_t mb__client_subscribe(mb_client *client,
                                         const rd_kafka_topic_partition_list_t *topics) {
  return change(client, "rd_kafka_subscribe", run_subscribe, topics, false);
}

static void run_unsubscribe(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_unsubscribe(rk);
}

rd_kafka_resp_err_t mb__client_unsubscribe(mb_client *client) {
  return change(client, "rd_kafka_unsubscribe", run_unsubscribe, NULL, false);
}

static void run_assign(rd_kafka_t *rk, mb_call *c) {
  c->err = rd_kafka_assign(rk, c->list);
}

rd_kafka_resp_err_t mb__client_assign(mb_client *client,
                                      const rd_kafka_topic_partition_list_t *list) {
  return change(client, "rd_kafka_assign", run_assign, list, false);
}

static void run_assign_more(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_incremental_assign(rk, c->list);
}

void mb__client_assign_more(mb_client *client, const rd_kafka_topic_partition_list_t *list) {
  change(client, "rd_kafka_incremental_assign", run_assign_more, list, false);
}

static void run_assign_less(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_incremental_unassign(rk, c->list);
}

void mb__client_assign_less(mb_client *client, const rd_kafka_topic_partition_list_t *list) {
  change(client, "rd_kafka_incremental_unassign", run_assign_less, list, false);
}

static void run_pause(rd_kafka_t *rk, mb_call *c) {
  c->err =
      c->flag ? rd_kafka_pause_partitions(rk, c->list) : rd_kafka_resume_partitions(rk, c->list);
}

void mb__client_pause(mb_client *client, const rd_kafka_topic_partition_list_t *list, bool paused) {
  change(client, paused ? "rd_kafka_pause_partitions" : "rd_kafka_resume_partitions", run_pause,
         list, paused);
}

/* ---- transactions ---- */

/* c NULL: out of memory. */
static rd_kafka_error_t *txn_call(mb_call *c, const char *name) {
  if (!c) return rd_kafka_error_new(RD_KAFKA_RESP_ERR__CRIT_SYS_RESOURCE, "out of memory");
  if (!mb__call_make(c))
    return rd_kafka_error_new(RD_KAFKA_RESP_ERR__TIMED_OUT,
                              "librdkafka did not return from %s in time", name);
  rd_kafka_error_t *error = c->error;
  c->error = NULL;
  mb__call_free(c);
  return error;
}

static void run_txn_init(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_init_transactions(rk, c->timeout_ms);
}

rd_kafka_error_t *mb__client_txn_init(mb_client *client, int timeout_ms) {
  static const char name[] = "rd_kafka_init_transactions";
  return txn_call(mb__call_new(client, name, run_txn_init, timeout_ms, true), name);
}

static void run_txn_begin(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_begin_transaction(rk);
}

rd_kafka_error_t *mb__client_txn_begin(mb_client *client, int timeout_ms) {
  static const char name[] = "rd_kafka_begin_transaction";
  return txn_call(mb__call_new(client, name, run_txn_begin, timeout_ms, true), name);
}

static void run_txn_offsets(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_send_offsets_to_transaction(rk, c->list, c->member, c->timeout_ms);
}

rd_kafka_error_t *mb__client_txn_offsets(mb_client *client,
                                         const rd_kafka_topic_partition_list_t *offsets,
                                         rd_kafka_consumer_group_metadata_t *member,
                                         int timeout_ms) {
  static const char name[] = "rd_kafka_send_offsets_to_transaction";
  mb_call *c = mb__call_new(client, name, run_txn_offsets, timeout_ms, true);
  if (c) {
    c->list = list_copy(offsets);
    c->member = member;
  } else if (member) {
    rd_kafka_consumer_group_metadata_destroy(member);
  }
  return txn_call(c, name);
}

static void run_txn_commit(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_commit_transaction(rk, c->timeout_ms);
}

rd_kafka_error_t *mb__client_txn_commit(mb_client *client, int timeout_ms) {
  static const char name[] = "rd_kafka_commit_transaction";
  return txn_call(mb__call_new(client, name, run_txn_commit, timeout_ms, true), name);
}

static void run_txn_abort(rd_kafka_t *rk, mb_call *c) {
  c->error = rd_kafka_abort_transaction(rk, c->timeout_ms);
}

rd_kafka_error_t *mb__client_txn_abort(mb_client *client, int timeout_ms) {
  static const char name[] = "rd_kafka_abort_transaction";
  return txn_call(mb__call_new(client, name, run_txn_abort, timeout_ms, true), name);
}
