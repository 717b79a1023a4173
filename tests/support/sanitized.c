/* sanitized.c: preloaded by scripts/check sanitize into the specs and all programs that they run,
 * so that reported leaks have names, and are not LuaDBI's. Must not change what a program does.
 * LeakSanitizer reports leaks at the end, when lua_close has unloaded every module: what a library
 * that is gone allocated has no names then, and its globals no longer hold it. So nothing is
 * unloaded.
 * LuaDBI 0.7 drops three things without freeing them (luadbi_leaks.lua measures it). These are
 * ignored one by one, for it can also be used wrong: a suppression of SQLite's and PostgreSQL's
 * libraries would hide connections that are closed with statements open. */
#include <dlfcn.h>

/* not there in programs that are built without sanitizers */
void __lsan_ignore_object(const void *object) __attribute__((weak));

static void ignore(const void *object) {
  if (__lsan_ignore_object && object) __lsan_ignore_object(object);
}

static void *original(const char *library, const char *name) {
  return dlsym(dlopen(library, RTLD_LAZY | RTLD_NOLOAD), name);
}

int dlclose(void *library) {
  (void)library;
  return 0;
}

/* the connection to a file that cannot be opened */
int sqlite3_open_v2(const char *path, void **db, int flags, const char *vfs) {
  int (*open)(const char *, void **, int, const char *) =
      original("libsqlite3.so.0", "sqlite3_open_v2");
  int failed = open(path, db, flags, vfs);
  if (failed) ignore(*db);
  return failed;
}

/* the connection to a server that cannot be reached */
void *PQsetdbLogin(const char *host, const char *port, const char *options, const char *tty,
                   const char *name, const char *user, const char *password) {
  enum { CONNECTION_OK = 0 };
  void *(*login)(const char *, const char *, const char *, const char *, const char *, const char *,
                 const char *) = original("libpq.so.5", "PQsetdbLogin");
  int (*status)(const void *) = original("libpq.so.5", "PQstatus");
  void *connection = login(host, port, options, tty, name, user, password);
  if (status(connection) != CONNECTION_OK) ignore(connection);
  return connection;
}

/* the result of a statement that failed */
void *PQexecPrepared(void *connection, const char *name, int count, const char *const *values,
                     const int *lengths, const int *formats, int format) {
  enum { PGRES_COMMAND_OK = 1, PGRES_TUPLES_OK = 2 };
  void *(*execute)(void *, const char *, int, const char *const *, const int *, const int *, int) =
      original("libpq.so.5", "PQexecPrepared");
  int (*status)(const void *) = original("libpq.so.5", "PQresultStatus");
  void *result = execute(connection, name, count, values, lengths, formats, format);
  int now = status(result);
  if (now != PGRES_COMMAND_OK && now != PGRES_TUPLES_OK) ignore(result);
  return result;
}
