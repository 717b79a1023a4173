/* dlq/replay.h: putting dead letters back, step by step, so that whoever drives it can let time
 * pass in between. Knows librdkafka and the bus; does not know handlers or Lua. */
#ifndef MB_REPLAY_H
#define MB_REPLAY_H

#include "bus/internal.h"

typedef struct mb_replay mb_replay;

/* Read the letters and what was replayed of them already, and put them in order. options and what
 * it points to are borrowed until this returns; on_letter is not called. *job is owned. */
mb_err mb__replay_open(mb_bus *bus, const mb_replay_options *options, mb_replay **job, char *errstr,
                       size_t errstr_size);
/* Put some of them back, as many as the rate lets by now, and wait for their acks. *letters tells
 * what became of each; borrowed until the next step. *count 0 and mb__replay_over: that was all. On
 * an error they still tell. */
mb_err mb__replay_step(mb_replay *job, const mb_replay_letter **letters, size_t *count,
                       char *errstr, size_t errstr_size);
bool mb__replay_over(const mb_replay *job);
/* Microseconds until the rate lets the next one by. */
int64_t mb__replay_wait_us(const mb_replay *job);
/* Letters looked at so far, and all there are. */
size_t mb__replay_done(const mb_replay *job);
size_t mb__replay_total(const mb_replay *job);
void mb__replay_result(const mb_replay *job, mb_replay_result *result);
void mb__replay_close(mb_replay *job);

#endif
