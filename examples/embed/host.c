/* A C program that runs a Lua script on the library: the program starts it and can end it, the
 * script does the rest.
 *
 * shows   mb_host_new, mb_host_run, mb_host_interrupt
 * build   cc host.c $(pkg-config --cflags --libs moonbus) -o host
 *         or with the CMakeLists.txt beside it
 * run     ./host handlers.lua
 *         Ctrl-C ends it early, with everything committed that was handled
 * prints  what handlers.lua prints: visit 1 by alice ... 3 visits
 */
#include <moonbus.h>
#include <signal.h>
#include <stdio.h>

static mb_host *host;

static void on_signal(int number) {
  (void)number;
  mb_host_interrupt(host); /* may be called here: every bus of the script stops */
}

int main(int argc, char **argv) {
  char why[2048] = "";
  if (argc != 2) {
    fprintf(stderr, "usage: %s SCRIPT.lua\n", argv[0]);
    return 2;
  }
  host = mb_host_new(why, sizeof why);
  if (!host) {
    fprintf(stderr, "%s\n", why);
    return 70;
  }
  signal(SIGINT, on_signal);
  signal(SIGTERM, on_signal);
  mb_err err = mb_host_run(host, argv[1], why, sizeof why);
  if (err) fprintf(stderr, "%s: %s\n", mb_err_name(err), why);
  signal(SIGINT, SIG_DFL);
  signal(SIGTERM, SIG_DFL);
  mb_host_free(host);
  return err ? 3 : 0;
}
