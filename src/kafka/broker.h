/* kafka/broker.h: the embedded broker. Does not know buses. */
#ifndef MB_BROKER_H
#define MB_BROKER_H

#include "moonbus.h"

/* The embedded broker shared by the process, with one more reference. */
mb_broker *mb__broker_shared(char *errstr, size_t errstr_size);
void mb__broker_release(mb_broker *broker);

#endif
