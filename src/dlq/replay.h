/* dlq/replay.h: writing dead letters back, step by step, so that the caller can do other work in
 * between. Knows librdkafka and the bus; does not know handlers or Lua. */
#ifndef MB_REPLAY_H
#define MB_REPLAY_H

#include "bus/internal.h"

typedef struct mb_replay mb_replay;

/* Read the letters and their earlier replays, and sort them. options and what
 * it points to are borrowed until this returns; on_letter is not called. *job is owned. */
mb_err mb__replay_open(mb_bus *bus, const mb_replay_options *options, mb_replay **job, char *errstr,
                       size_t errstr_size);
/* Write some of them back, as many as the rate allows now, and wait for their acknowledgements.
 * *letters has the result of each, also after an error; borrowed until the next step. *count 0 and
 * mb__replay_over: there are no more. */
mb_err mb__replay_step(mb_replay *job, const mb_replay_letter **letters, size_t *count,
                       char *errstr, size_t errstr_size);
bool mb__replay_over(const mb_replay *job);
/* Microseconds until the rate allows the next one. */
int64_t mb__replay_wait_us(const mb_replay *job);
/* Letters looked at so far, and all there are. */
size_t mb__replay_done(const mb_replay *job);
size_t mb__replay_total(const mb_replay *job);
void mb__replay_result(const mb_replay *job, mb_replay_result *result);
void mb__replay_close(mb_replay *job);

#endif
