/* bus/pending.c: tokens for handlers that go on after they returned. Must not know what is kept of
 * their events (group/pending.c). Called through moonbus.h by handlers. */
#include <stdlib.h>

#include "bus/internal.h"

mb_err mb_bus_pend(mb_bus *bus, const mb_msg *msg, mb_token *token, char *errstr,
                   size_t errstr_size) {
  if (!msg || !token)
    return mb__error(MB_EINVAL, errstr, errstr_size,
                     "mb_bus_pend: expected a message and a place for a token, got NULL");
  mb_attempt *attempt = bus->deliver.in_hand;
  if (!attempt || msg != attempt->msg)
    return mb__error(MB_ESTATE, errstr, errstr_size,
                     "a token is given to the handler that runs, for its own message");
  if (bus->ctx.transaction.on)
    return mb__error(MB_EUNSUPPORTED, errstr, errstr_size,
                     "with delivery = exactly_once a handler cannot go on after it returned: its "
                     "transaction would end before it does");
  if (!mb__pend_token(&bus->group, attempt->msg, attempt->iteration->at, token))
    return mb__error(MB_ENOMEM, errstr, errstr_size, "out of memory");
  return MB_OK;
}

mb_err mb_bus_complete(mb_bus *bus, mb_token token, mb_outcome outcome) {
  mb_pend *pend = mb__pend_of(&bus->group, token);
  if (outcome != MB_HANDLED && outcome != MB_FAILED && outcome != MB_REJECTED &&
      outcome != MB_UNDECODABLE)
    return MB_EINVAL;
  if (!pend) return MB_ENOENT;
  mb__pend_complete(&bus->group, pend, outcome);
  return MB_OK;
}

mb_fail *mb_pending_fail(mb_bus *bus, mb_token token) {
  mb_pend *pend = mb__pend_of(&bus->group, token);
  if (!pend) return NULL;
  if (!pend->fail && (pend->fail = malloc(sizeof *pend->fail))) mb__fail_clear(pend->fail);
  return pend->fail;
}

const mb_msg *mb_pending_msg(mb_bus *bus, mb_token token) {
  mb_pend *pend = mb__pend_of(&bus->group, token);
  if (!pend || mb__pend_is_detached(pend)) return NULL;
  if (pend->kept) return &pend->msg;
  return bus->deliver.in_hand ? bus->deliver.in_hand->msg : NULL;
}
