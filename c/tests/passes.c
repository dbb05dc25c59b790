/* Every pass over every type, apart and in place, against the same in plain C. */
#include "activations.h"
#include "check.h"
#include "numbers.h"

enum { N = 5003, WORDS = (N + 31) / 32 };

/* Numbers that all four types hold exactly: multiples of 1/16 between -3 and 3. */
static double number(size_t i) { return ((double)(i * 37 % 97) - 48) / 16; }

/* Memory of exactly the size that is said, so that a checker of memory sees every step beyond. */
typedef struct {
  void *x, *y, *dy, *dx;
  uint32_t *mask, *keep;
} memory;

static void fill(uint32_t dtype, memory at) {
  for (size_t i = 0; i < N; i++) {
    store(dtype, at.x, i, number(i));
    store(dtype, at.dy, i, number(3 * i + 1));
  }
}

/* One pass, out of place; then over its input and over its saved tensor, with the same result. */
static void run(const dact_pass *pass, uint32_t dtype, const void *input, const void *saved, void *output,
                uint32_t *mask) {
  size_t bytes = N * size_of(dtype);
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = dtype;
  tensors.len = N;
  tensors.input = input;
  tensors.saved = saved;
  tensors.output = output;
  tensors.mask = mask;
  OK(dact_cpu_run(pass, &tensors, &error));

  void *over = malloc(bytes);
  memcpy(over, input, bytes);
  tensors.input = tensors.output = over;
  OK(dact_cpu_run(pass, &tensors, &error));
  CHECK(memcmp(over, output, bytes) == 0);
  if (saved) {
    memcpy(over, saved, bytes);
    tensors.input = input;
    tensors.saved = tensors.output = over;
    OK(dact_cpu_run(pass, &tensors, &error));
    CHECK(memcmp(over, output, bytes) == 0);
  }
  free(over);
}

static void close_to(uint32_t dtype, const void *values, size_t i, double expected) {
  double got = load(dtype, values, i);
  if (!(fabs(got - expected) <= tolerance(dtype) * (fabs(expected) + 0.01))) {
    fprintf(stderr, "dtype %u, element %zu: %.17g, expected %.17g\n", dtype, i, got, expected);
    exit(1);
  }
}

static void drop_activation(uint32_t dtype, uint32_t activation, memory at) {
  int relu = activation == DACT_ACTIVATION_RELU;
  dact_pass pass = DACT_PASS_INIT;
  pass.activation = activation;
  pass.p = 0.75;
  pass.key.seed = 7;
  pass.key.offset = 3;
  pass.key.first = 64;
  fill(dtype, at);
  OK(dact_cpu_keep_mask(pass.p, &pass.key, N, at.keep, &error));

  pass.kind = DACT_PASS_FORWARD;
  run(&pass, dtype, at.x, NULL, at.y, at.mask);
  for (size_t i = 0; i < N; i++) {
    double x = number(i);
    close_to(dtype, at.y, i, bit(at.keep, i) ? ACTIVATIONS[activation].value(x) : x);
    CHECK(bit(at.mask, i) == (relu ? !(bit(at.keep, i) && x <= 0) : bit(at.keep, i)));
  }
  CHECK(at.mask[WORDS - 1] >> N % 32 == 0 && at.keep[WORDS - 1] >> N % 32 == 0);

  pass.kind = DACT_PASS_BACKWARD;
  run(&pass, dtype, at.dy, relu ? NULL : at.x, at.dx, at.mask);
  for (size_t i = 0; i < N; i++) {
    double x = number(i), dy = number(3 * i + 1);
    close_to(dtype, at.dx, i, bit(at.keep, i) ? dy * ACTIVATIONS[activation].derivative(x) : dy);
  }

  pass.kind = DACT_PASS_INFER;
  run(&pass, dtype, at.x, NULL, at.y, NULL);
  for (size_t i = 0; i < N; i++)
    close_to(dtype, at.y, i, 0.25 * number(i) + 0.75 * ACTIVATIONS[activation].value(number(i)));

  pass.kind = DACT_PASS_INFER_BACKWARD;
  run(&pass, dtype, at.dy, at.x, at.dx, NULL);
  for (size_t i = 0; i < N; i++) {
    close_to(dtype, at.dx, i, number(3 * i + 1) * (0.25 + 0.75 * ACTIVATIONS[activation].derivative(number(i))));
  }
  if (!relu) return;

  pass.kind = DACT_PASS_FORWARD_WITHOUT_MASK;
  run(&pass, dtype, at.x, NULL, at.y, NULL);
  for (size_t i = 0; i < N; i++) close_to(dtype, at.y, i, bit(at.keep, i) && number(i) <= 0 ? 0 : number(i));
  pass.kind = DACT_PASS_BACKWARD_FROM_OUTPUT;
  run(&pass, dtype, at.dy, at.y, at.dx, NULL);
  for (size_t i = 0; i < N; i++) close_to(dtype, at.dx, i, load(dtype, at.y, i) == 0 ? 0 : number(3 * i + 1));
}

static void others(uint32_t dtype, memory at) {
  dact_pass pass = DACT_PASS_INIT;
  fill(dtype, at);
  pass.kind = DACT_PASS_RELU_FORWARD;
  run(&pass, dtype, at.x, NULL, at.y, NULL);
  for (size_t i = 0; i < N; i++) close_to(dtype, at.y, i, number(i) > 0 ? number(i) : 0);
  pass.kind = DACT_PASS_RELU_BACKWARD;
  run(&pass, dtype, at.dy, at.y, at.dx, NULL);
  for (size_t i = 0; i < N; i++) close_to(dtype, at.dx, i, number(i) > 0 ? number(3 * i + 1) : 0);

  pass.lower = 0.25f;
  pass.upper = 0.5f;
  pass.key.offset = 9;
  pass.kind = DACT_PASS_RRELU_FORWARD;
  run(&pass, dtype, at.x, NULL, at.y, at.mask);
  pass.kind = DACT_PASS_RRELU_BACKWARD;
  run(&pass, dtype, at.dy, NULL, at.dx, at.mask);
  double least = 1, greatest = 0;
  for (size_t i = 0; i < N; i++) {
    double x = number(i), dy = number(3 * i + 1);
    CHECK(bit(at.mask, i) == (x >= 0));
    double slope = x >= 0 ? 1 : load(dtype, at.y, i) / x;
    if (x < 0) {
      least = fmin(least, slope);
      greatest = fmax(greatest, slope);
    }
    /* Rounded twice: once in the slope that is found here from y, once in dx. */
    CHECK(fabs(load(dtype, at.dx, i) - slope * dy) <= 3 * tolerance(dtype) * (fabs(dy) + 0.01));
  }
  CHECK(0.249 < least && least < 0.26 && 0.49 < greatest && greatest < 0.502);

  pass.kind = DACT_PASS_RRELU_INFER;
  run(&pass, dtype, at.x, NULL, at.y, NULL);
  for (size_t i = 0; i < N; i++) close_to(dtype, at.y, i, number(i) >= 0 ? number(i) : 0.375 * number(i));
  pass.kind = DACT_PASS_RRELU_INFER_BACKWARD;
  run(&pass, dtype, at.dy, at.x, at.dx, NULL);
  for (size_t i = 0; i < N; i++) {
    close_to(dtype, at.dx, i, number(i) >= 0 ? number(3 * i + 1) : 0.375 * number(3 * i + 1));
  }
}

int main(void) {
  OK(dact_check_abi(DACT_ABI_VERSION, &error));
  CHECK(dact_abi_version() == DACT_ABI_VERSION);
  char version[32];
  sprintf(version, "%d.%d.%d", DACT_VERSION_MAJOR, DACT_VERSION_MINOR, DACT_VERSION_PATCH);
  CHECK(strcmp(version, dact_version()) == 0);
  CHECK(dact_mask_words(N) == WORDS && dact_mask_words(0) == 0 && dact_mask_words(SIZE_MAX) == SIZE_MAX / 32 + 1);

  for (uint32_t dtype = DACT_DTYPE_F32; dtype <= DACT_DTYPE_F64; dtype++) {
    size_t bytes = N * size_of(dtype);
    memory at = {malloc(bytes), malloc(bytes), malloc(bytes), malloc(bytes), malloc(4 * WORDS), malloc(4 * WORDS)};
    for (uint32_t code = 0; code < ACTIVATION_COUNT; code++) {
      CHECK(ACTIVATIONS[code].code == code);
      drop_activation(dtype, code, at);
    }
    others(dtype, at);
    free(at.x), free(at.y), free(at.dy), free(at.dx), free(at.mask), free(at.keep);
  }
  return 0;
}
