/* base/wake.h: an eventfd that ends the wait of the thread that polls it. Knows nothing else. */
#ifndef MB_WAKE_H
#define MB_WAKE_H

#include <errno.h>
#include <stdint.h>
#include <unistd.h>

/* Make the descriptor readable; from any thread, also in a signal handler: errno stays as it is. */
static inline void mb__wake(int fd) {
  static const uint64_t one = 1;
  int saved = errno;
  ssize_t written = write(fd, &one, sizeof one);
  (void)written;
  errno = saved;
}

#endif
