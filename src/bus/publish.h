/* bus/publish.h: a publish() call: its events encoded, then all sent, and waited for. */
#ifndef MB_PUBLISH_H
#define MB_PUBLISH_H

#include "event/codec.h"
#include "moonbus.h"

typedef struct mb_batch mb_batch;

mb_batch *mb__batch_new(mb_bus *bus, size_t expected);
/* Keep a copy of what the encoder holds. */
mb_err mb__batch_add(mb_batch *batch, const mb_encoder *encoder);
/* Send everything and wait for every report. Receipts (may be NULL) has room for all of them.
 * MB_EDELIVERY names the first failure and counts them. */
mb_err mb__batch_publish(mb_batch *batch, mb_receipt *receipts, char *errstr, size_t errstr_size);
/* Send everything without waiting for reports; *queued is how many went in. */
mb_err mb__batch_publish_background(mb_batch *batch, size_t *queued, char *errstr,
                                    size_t errstr_size);
/* Why event i was not delivered: static text, NULL if it was. */
const char *mb__batch_reason(const mb_batch *batch, size_t i);
mb_bytes mb__batch_event_id(const mb_batch *batch, size_t i);
void mb__batch_free(mb_batch *batch);

#endif
