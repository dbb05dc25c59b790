/* What the test programs share. */
#ifndef CHECK_H
#define CHECK_H

#include <drop_activation.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition)                                                      \
  do {                                                                        \
    if (!(condition)) {                                                       \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                \
    }                                                                         \
  } while (0)

/* The call went well. */
#define OK(call)                                                                                \
  do {                                                                                          \
    dact_error *error = NULL;                                                                   \
    dact_status status = (call);                                                                \
    if (status != DACT_OK) {                                                                    \
      fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, dact_error_message(error)); \
      exit(1);                                                                                  \
    }                                                                                           \
    CHECK(error == NULL);                                                                       \
  } while (0)

/* The call was refused with this status, and with a message in which all of the words are. Without an error to
 * fill the status is the same. */
#define REFUSED(expected, call, ...)                                                                               \
  do {                                                                                                             \
    const char *words[] = {__VA_ARGS__};                                                                           \
    dact_error *error = NULL;                                                                                      \
    dact_error **errors[] = {NULL, &error};                                                                        \
    for (int given = 0; given < 2; given++) {                                                                      \
      dact_error **out = errors[given];                                                                            \
      dact_status status = (call);                                                                                 \
      if (status != (expected)) {                                                                                  \
        fprintf(stderr, "%s:%d: %s: status %d: %s\n", __FILE__, __LINE__, #call, (int)status,                      \
                dact_error_message(error));                                                                        \
        exit(1);                                                                                                   \
      }                                                                                                            \
    }                                                                                                              \
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {                                                    \
      if (strstr(dact_error_message(error), words[i]) == NULL) {                                                   \
        fprintf(stderr, "%s:%d: \"%s\" is not in: %s\n", __FILE__, __LINE__, words[i], dact_error_message(error)); \
        exit(1);                                                                                                   \
      }                                                                                                            \
    }                                                                                                              \
    dact_error_free(error);                                                                                        \
  } while (0)

#endif
