/* What surrounds a call does not get into it: the floating-point environment, a fork, a small stack. */
#define _GNU_SOURCE
#include "check.h"

#include <fenv.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#if defined __SSE__
#include <xmmintrin.h>
#endif

/* Enough for several tasks, and for one. */
enum { LARGE = 5 * 65536 + 77, SMALL = 5000 };

static float *x, *dy, *y, *expected;
static uint32_t *mask;

static void run(uint32_t kind, uint32_t activation, size_t len, const float *input, const float *saved, float *output) {
  dact_pass pass = DACT_PASS_INIT;
  pass.kind = kind;
  pass.activation = activation;
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  tensors.len = len;
  tensors.input = input;
  tensors.saved = saved;
  tensors.output = output;
  tensors.mask = mask;
  OK(dact_cpu_run(&pass, &tensors, &error));
}

/* Some passes over len elements, one after the other in `to`, which has room for five. */
static void passes(size_t len, float *to) {
  run(DACT_PASS_INFER, DACT_ACTIVATION_RELU, len, x, NULL, to);
  run(DACT_PASS_RRELU_FORWARD, DACT_ACTIVATION_RELU, len, x, NULL, to + len);
  run(DACT_PASS_FORWARD, DACT_ACTIVATION_GELU, len, x, NULL, to + 2 * len);
  run(DACT_PASS_BACKWARD, DACT_ACTIVATION_GELU, len, dy, x, to + 3 * len);
  /* The output takes the place of the saved tensor. */
  memcpy(to + 4 * len, x, len * sizeof(float));
  run(DACT_PASS_BACKWARD, DACT_ACTIVATION_GELU, len, dy, to + 4 * len, to + 4 * len);
}

static int as_expected(void) {
  memset(y, 0x5A, 5 * (size_t)LARGE * sizeof(float));
  passes(LARGE, y);
  if (memcmp(y, expected, 5 * (size_t)LARGE * sizeof(float))) return 0;
  passes(SMALL, y);
  return !memcmp(y, expected + 5 * (size_t)LARGE, 5 * (size_t)SMALL * sizeof(float));
}

static void in_environments(void) {
  static const int roundings[] = {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};
  for (size_t i = 0; i < sizeof roundings / sizeof *roundings; i++) {
    CHECK(!fesetround(roundings[i]));
    int good = as_expected(), after = fegetround();
    fesetround(FE_TONEAREST);
    CHECK(good);
    CHECK(after == roundings[i]);
  }
#if defined __SSE__
  const unsigned before = _mm_getcsr(), odd = (before | 0x8040) & ~0x3Fu;
  _mm_setcsr(odd); /* subnormal numbers are zero */
  int good = as_expected();
  const unsigned after = _mm_getcsr() & ~0x3Fu;
  _mm_setcsr(before);
  CHECK(good);
  CHECK(after == odd);

  feclearexcept(FE_ALL_EXCEPT);
  feenableexcept(FE_ALL_EXCEPT); /* a trap ends the program */
  good = as_expected();
  /* A message holds the number, and it has to be made without a trap too. */
  dact_pass pass = DACT_PASS_INIT;
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  pass.kind = DACT_PASS_INFER;
  pass.p = -1e-310;
  dact_error *error = NULL;
  const dact_status status = dact_cpu_run(&pass, &tensors, &error);
  const int trapped = fegetexcept();
  fedisableexcept(FE_ALL_EXCEPT);
  CHECK(good);
  CHECK(trapped == FE_ALL_EXCEPT);
  CHECK(status == DACT_INVALID_ARGUMENT);
  CHECK(strstr(dact_error_message(error), "-1e-310") != NULL);
  dact_error_free(error);
#endif
}

static void in_a_child(void) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(60);
    _exit(as_expected() ? 0 : 1);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void *on_a_thread(void *good) {
  *(int *)good = as_expected();
  return NULL;
}

static void on_a_small_stack(void) {
  pthread_attr_t attributes;
  CHECK(!pthread_attr_init(&attributes));
  CHECK(!pthread_attr_setstacksize(&attributes, 64 * 1024));
  pthread_t thread;
  int good = 0;
  CHECK(!pthread_create(&thread, &attributes, on_a_thread, &good));
  CHECK(!pthread_join(thread, NULL));
  CHECK(good);
  pthread_attr_destroy(&attributes);
}

int main(int count, char **arguments) {
  x = malloc(LARGE * sizeof *x);
  dy = malloc(LARGE * sizeof *dy);
  y = malloc(5 * (size_t)LARGE * sizeof *y);
  expected = malloc(5 * (size_t)(LARGE + SMALL) * sizeof *expected);
  mask = malloc(dact_mask_words(LARGE) * sizeof *mask);
  CHECK(x && dy && y && expected && mask);
  for (size_t i = 0; i < LARGE; i++) {
    const uint32_t bits = (uint32_t)i * 2654435761u;
    const uint32_t of_x = i % 4 ? bits : bits & 0x807FFFFFu; /* a quarter is subnormal */
    memcpy(x + i, &of_x, sizeof of_x);
    const uint32_t of_dy = (bits << 7 | bits >> 25) & (i % 3 ? 0xBFFFFFFFu : 0x807FFFFFu);
    memcpy(dy + i, &of_dy, sizeof of_dy);
  }
  /* With an argument, the pool begins in another environment. */
  if (count > 1) {
    (void)arguments;
    CHECK(!fesetround(FE_UPWARD));
    passes(LARGE, y);
    CHECK(fegetround() == FE_UPWARD);
    fesetround(FE_TONEAREST);
  }
  passes(LARGE, expected);
  passes(SMALL, expected + 5 * (size_t)LARGE);
  if (count > 1) CHECK(!memcmp(y, expected, 5 * (size_t)LARGE * sizeof(float)));
  in_environments();
  in_a_child();
  on_a_small_stack();
  CHECK(as_expected());
  free(x), free(dy), free(y), free(expected), free(mask);
  return 0;
}
