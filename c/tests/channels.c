/* The passes over channels, against the same in plain C, and what is refused of them. */
#include "activations.h"
#include "check.h"
#include "numbers.h"

enum { CHANNELS = 3, MOST = 5003 * CHANNELS };

typedef struct {
  void *x, *r, *dy, *y, *dx, *dr;
  void *scale, *shift, *mean, *alpha, *beta, *gamma, *first, *second;
  uint32_t *mask, *keep;
} memory;

static uint32_t real_of(uint32_t dtype) { return dtype == DACT_DTYPE_F64 ? DACT_DTYPE_F64 : DACT_DTYPE_F32; }

/* Multiples of 1/4: with numbers of few digits, z has no rounding in any type. */
static double few(size_t i) { return ((double)(i * 11 % 17) - 8) / 4; }
static double scale_of(size_t c) { return 0.5 + (double)c / 2; }
static double shift_of(size_t c) { return (double)c / 4 - 0.25; }
static double mean_of(size_t c) { return 0.25 - (double)c / 8; }

/* On the CPU, or on the stand-in for a GPU, whose memory is the host's. */
static dact_cuda *cuda;
static void run(const dact_pass *pass, dact_tensors *tensors) {
  if (cuda == NULL) {
    OK(dact_cpu_run(pass, tensors, &error));
    return;
  }
  OK(dact_cuda_workspace_bytes(pass, tensors, &tensors->workspace_bytes, &error));
  CHECK((tensors->workspace_bytes > 0) == (pass->kind == DACT_PASS_STATISTICS || pass->kind == DACT_PASS_FUSED_SUMS));
  tensors->workspace = malloc(tensors->workspace_bytes + 1);
  OK(dact_cuda_run(cuda, (void *)0xABC, pass, tensors, &error));
  free(tensors->workspace);
}

static void close_to(uint32_t dtype, const void *values, size_t i, double expected, double scale) {
  double got = load(dtype, values, i);
  if (!(fabs(got - expected) <= tolerance(dtype) * (fabs(expected) + scale))) {
    fprintf(stderr, "dtype %u, element %zu: %.17g, expected %.17g\n", dtype, i, got, expected);
    exit(1);
  }
}

static dact_tensors tensors_of(uint32_t dtype, size_t n, memory at) {
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = dtype;
  tensors.len = n;
  tensors.mask = at.mask;
  tensors.residual = at.r;
  tensors.scale = at.scale;
  tensors.shift = at.shift;
  return tensors;
}

static void check(uint32_t dtype, uint32_t activation, size_t outer, size_t inner, memory at) {
  size_t n = outer * CHANNELS * inner;
  int relu = activation == DACT_ACTIVATION_RELU;
  dact_pass pass = DACT_PASS_INIT;
  pass.activation = activation;
  pass.p = 0.75;
  pass.key.seed = 7;
  pass.channels = CHANNELS;
  pass.inner = inner;
  OK(dact_cpu_keep_mask(pass.p, &pass.key, n, at.keep, &error));
#define CHANNEL(i) ((i) / inner % CHANNELS)
#define Z(i) (scale_of(CHANNEL(i)) * few(i) + shift_of(CHANNEL(i)) + few(i + 5))

  pass.kind = DACT_PASS_FUSED_FORWARD;
  dact_tensors tensors = tensors_of(dtype, n, at);
  tensors.input = at.x;
  tensors.output = at.y;
  run(&pass, &tensors);
  for (size_t i = 0; i < n; i++) {
    close_to(dtype, at.y, i, bit(at.keep, i) ? ACTIVATIONS[activation].value(Z(i)) : Z(i), 0.01);
    CHECK(bit(at.mask, i) == (relu ? !(bit(at.keep, i) && Z(i) <= 0) : bit(at.keep, i)));
  }

  /* In place, and without a residual. */
  memcpy(at.dx, at.x, n * size_of(dtype));
  tensors.input = tensors.output = at.dx;
  tensors.residual = NULL;
  pass.kind = DACT_PASS_FUSED_INFER;
  run(&pass, &tensors);
  for (size_t i = 0; i < n; i++) {
    double z = Z(i) - few(i + 5);
    close_to(dtype, at.dx, i, 0.25 * z + 0.75 * ACTIVATIONS[activation].value(z), 0.01);
  }

  double sums[CHANNELS] = {0}, products[CHANNELS] = {0}, of_x[CHANNELS] = {0}, squares[CHANNELS] = {0};
  double magnitude = 0;
  for (size_t i = 0; i < n; i++) {
    size_t c = CHANNEL(i);
    double dz = bit(at.keep, i) ? few(i + 9) * ACTIVATIONS[activation].derivative(Z(i)) : few(i + 9);
    sums[c] += dz;
    products[c] += dz * (few(i) - mean_of(c));
    of_x[c] += few(i) / (double)(outer * inner);
    magnitude += 4;
  }
  for (size_t i = 0; i < n; i++) squares[CHANNEL(i)] += pow(few(i) - of_x[CHANNEL(i)], 2) / (double)(outer * inner);

  pass.kind = DACT_PASS_FUSED_SUMS;
  pass.dz = DACT_DZ_TRAINING;
  tensors = tensors_of(dtype, n, at);
  tensors.input = at.dy;
  tensors.saved = at.x;
  tensors.output = at.dr;
  tensors.mean = at.mean;
  tensors.results[0] = at.first;
  tensors.results[1] = at.second;
  run(&pass, &tensors);
  for (size_t c = 0; c < CHANNELS; c++) {
    close_to(real_of(dtype), at.first, c, sums[c], magnitude);
    close_to(real_of(dtype), at.second, c, products[c], magnitude);
  }
  for (size_t i = 0; i < n; i++) {
    double slope = bit(at.keep, i) ? ACTIVATIONS[activation].derivative(Z(i)) : 1;
    close_to(dtype, at.dr, i, few(i + 9) * slope, 0.01);
  }
  /* The first sum alone, and no dr. */
  memset(at.second, 0x5A, 8 * CHANNELS);
  tensors.output = NULL;
  tensors.mean = NULL;
  tensors.results[1] = NULL;
  if (relu) tensors.saved = NULL;
  run(&pass, &tensors);
  for (size_t c = 0; c < CHANNELS; c++) close_to(real_of(dtype), at.first, c, sums[c], magnitude);
  CHECK(((unsigned char *)at.second)[0] == 0x5A);

  pass.kind = DACT_PASS_FUSED_BACKWARD;
  tensors.saved = at.x;
  tensors.output = at.dx;
  tensors.mean = at.mean;
  tensors.alpha = at.alpha;
  tensors.beta = at.beta;
  tensors.gamma = at.gamma;
  run(&pass, &tensors);
  for (size_t i = 0; i < n; i++) {
    size_t c = CHANNEL(i);
    double slope = bit(at.keep, i) ? ACTIVATIONS[activation].derivative(Z(i)) : 1;
    double rest = shift_of(c) * (few(i) - mean_of(c)) + mean_of(c);
    close_to(dtype, at.dx, i, scale_of(c) * few(i + 9) * slope + rest, 1);
  }

  pass.kind = DACT_PASS_STATISTICS;
  tensors.input = at.x;
  tensors.results[1] = at.second;
  run(&pass, &tensors);
  for (size_t c = 0; c < CHANNELS; c++) {
    close_to(real_of(dtype), at.first, c, of_x[c], 1);
    close_to(real_of(dtype), at.second, c, squares[c], 1);
  }
}

static void every_type(void) {
  for (uint32_t dtype = DACT_DTYPE_F32; dtype <= DACT_DTYPE_F64; dtype++) {
    memory at;
    void **tensors[] = {&at.x, &at.r, &at.dy, &at.y, &at.dx, &at.dr};
    void **vectors[] = {&at.scale, &at.shift, &at.mean, &at.alpha, &at.beta, &at.gamma, &at.first, &at.second};
    for (size_t i = 0; i < 6; i++) *tensors[i] = malloc(MOST * size_of(dtype));
    for (size_t i = 0; i < 8; i++) *vectors[i] = malloc(8 * CHANNELS);
    at.mask = malloc(4 * dact_mask_words(MOST));
    at.keep = malloc(4 * dact_mask_words(MOST));
    for (size_t i = 0; i < MOST; i++) {
      store(dtype, at.x, i, few(i));
      store(dtype, at.r, i, few(i + 5));
      store(dtype, at.dy, i, few(i + 9));
    }
    for (size_t c = 0; c < CHANNELS; c++) {
      uint32_t real = real_of(dtype);
      store(real, at.scale, c, scale_of(c)), store(real, at.alpha, c, scale_of(c));
      store(real, at.shift, c, shift_of(c)), store(real, at.beta, c, shift_of(c));
      store(real, at.mean, c, mean_of(c)), store(real, at.gamma, c, mean_of(c));
    }
    for (uint32_t code = 0; code < ACTIVATION_COUNT; code++) {
      check(dtype, code, 5003, 1, at);
      check(dtype, code, 17, 49, at);
    }
    for (size_t i = 0; i < 6; i++) free(*tensors[i]);
    for (size_t i = 0; i < 8; i++) free(*vectors[i]);
    free(at.mask), free(at.keep);
  }
}

enum { N = 12 };
static float x[N + 1], y[N + 1], vector[4], results[2][3];
static uint32_t mask[1];
static dact_pass pass;
static dact_tensors tensors;

/* A call that is in order. */
static void in_order(uint32_t kind) {
  dact_pass p = DACT_PASS_INIT;
  dact_tensors t = DACT_TENSORS_INIT;
  p.kind = kind;
  p.channels = 3;
  p.inner = 2;
  p.dz = DACT_DZ_TRAINING;
  t.dtype = DACT_DTYPE_F32;
  t.len = N;
  t.input = x;
  t.saved = x;
  t.output = y;
  t.mask = mask;
  t.scale = t.shift = t.mean = t.alpha = t.beta = t.gamma = vector;
  t.results[0] = results[0];
  t.results[1] = results[1];
  pass = p;
  tensors = t;
}

#define BUT(kind, change, ...)                                                       \
  do {                                                                               \
    in_order(kind);                                                                  \
    change;                                                                          \
    REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run(&pass, &tensors, out), __VA_ARGS__); \
  } while (0)

static void refusals(void) {
  memset(y, 0x5A, sizeof y);
  memset(results, 0x5A, sizeof results);
  const uint32_t FORWARD = DACT_PASS_FUSED_FORWARD, SUMS = DACT_PASS_FUSED_SUMS, BACKWARD = DACT_PASS_FUSED_BACKWARD;
  BUT(FORWARD, pass.channels = 5, "12 elements", "channels = 5", "inner = 2");
  BUT(FORWARD, pass.channels = 0, "channels = 0");
  BUT(FORWARD, pass.inner = 0, "inner = 0");
  BUT(FORWARD, pass.struct_size = 64, "channels = 0");
  BUT(FORWARD, pass.reserved2 = 1, "pass.reserved2 must be 0, got 1");
  BUT(FORWARD, tensors.mask = NULL, "tensors.mask (mask) must be the address of ", "got NULL");
  BUT(FORWARD, tensors.output = NULL, "tensors.output (y) must be the address of ", "got NULL");
  BUT(FORWARD, tensors.residual = (char *)x + 1, "tensors.residual (r) must be at a multiple of 4", "got 0x");
  BUT(FORWARD, tensors.residual = y, "tensors.output (y)", "must not overlap tensors.residual (r)");
  BUT(FORWARD, tensors.scale = (char *)vector + 2, "tensors.scale (a vector) must be at a multiple of 4", "got 0x");
  BUT(FORWARD, tensors.shift = y, "tensors.output (y)", "must not overlap tensors.shift");
  BUT(FORWARD, pass.key.first = 1, "first must be a multiple of 32", "got 1");
  BUT(FORWARD, pass.p = 2, "p must be in [0, 1], got 2");
  BUT(DACT_PASS_STATISTICS, tensors.results[0] = NULL, "tensors.results[0] (mean) must be the address of ", "got NULL");
  BUT(DACT_PASS_STATISTICS, tensors.results[1] = NULL, "tensors.results[1] (variance) must be the address of ",
      "got NULL");
  BUT(DACT_PASS_STATISTICS, tensors.results[1] = results[0] + 1, "must not overlap tensors.results[0] (mean)");
  BUT(DACT_PASS_STATISTICS, tensors.len = 0, "shape must have an element in each channel", "got [0, 3, 2]");
  BUT(SUMS, pass.dz = 3, "pass.dz must be one of 0 (DACT_DZ_GIVEN)", "2 (DACT_DZ_INFERENCE), got 3");
  BUT(SUMS, tensors.results[0] = NULL, "tensors.results[0] (s1) must be the address of ", "got NULL");
  BUT(SUMS, tensors.results[1] = NULL, "tensors.results[1] (s2) must be the address of ", "got NULL");
  BUT(SUMS, tensors.saved = NULL, "tensors.saved (x) must be the address of ", "got NULL");
  BUT(SUMS, tensors.mask = NULL, "tensors.mask (mask) must be the address of ", "got NULL");
  BUT(SUMS, (pass.activation = DACT_ACTIVATION_GELU, tensors.mean = tensors.saved = NULL),
      "tensors.saved (x) must be the address of ", "got NULL");
  BUT(SUMS, (tensors.len = 0, tensors.results[0] = NULL), "tensors.results[0] (s1) must be the address of ",
      "got NULL");
  BUT(FORWARD, (tensors.len = 0, tensors.scale = (char *)vector + 2), "tensors.scale (a vector) must be at a multiple");
  BUT(BACKWARD, tensors.beta = NULL, "beta must be given for this pass, got none");
  BUT(BACKWARD, tensors.gamma = NULL, "gamma must be given for this pass, got none");
  BUT(BACKWARD, tensors.mean = NULL, "mean must be given for this pass, got none");
  BUT(BACKWARD, tensors.saved = NULL, "tensors.saved (x) must be the address of ", "got NULL");
  BUT(BACKWARD, tensors.output = NULL, "tensors.output (dx) must be the address of ", "got NULL");
  BUT(BACKWARD, tensors.saved = y, "tensors.output (dx)", "must not overlap tensors.saved (x)",
      "may be the input itself or, but for a pass over channels, the saved tensor");
  /* In place, with something else at the same address. */
  memset(x, 0x5A, sizeof x);
  BUT(FORWARD, (tensors.output = x, tensors.residual = x), "tensors.output (y)",
      "must not overlap tensors.residual (r)");
  BUT(FORWARD, (tensors.output = x, tensors.scale = x, tensors.shift = NULL, pass.channels = N, pass.inner = 1),
      "tensors.output (y)", "must not overlap tensors.scale");
  BUT(SUMS, tensors.output = x, "tensors.output (dr)", "must not overlap tensors.saved (x)");
  BUT(BACKWARD, tensors.output = x, "tensors.output (dx)", "must not overlap tensors.saved (x)");
  BUT(SUMS, (tensors.output = NULL, tensors.results[0] = x), "tensors.results[0] (s1)",
      "must not overlap tensors.input (dy)");
  for (size_t i = 0; i < sizeof x; i++) CHECK(((unsigned char *)x)[i] == 0x5A);
  for (size_t i = 0; i < sizeof y; i++) CHECK(((unsigned char *)y)[i] == 0x5A);
  for (size_t i = 0; i < sizeof results; i++) CHECK(((unsigned char *)results)[i] == 0x5A);

  /* What a pass has no use for is not looked at; a tensor without elements has no address. */
  in_order(DACT_PASS_FUSED_INFER);
  tensors.mean = tensors.alpha = tensors.saved = (char *)x + 1;
  tensors.mask = NULL;
  OK(dact_cpu_run(&pass, &tensors, &error));
  for (uint32_t kind = FORWARD; kind <= BACKWARD; kind++) {
    if (kind == DACT_PASS_STATISTICS) continue;
    in_order(kind);
    tensors.len = 0;
    tensors.input = tensors.saved = tensors.output = NULL;
    tensors.mask = NULL;
    OK(dact_cpu_run(&pass, &tensors, &error));
    /* However many channels have none, where no vector has a value for each. */
    tensors.scale = tensors.shift = tensors.mean = tensors.alpha = tensors.beta = tensors.gamma = NULL;
    for (size_t channels = (size_t)-1; kind != SUMS && channels > 3; channels >>= 12) {
      pass.channels = channels;
      pass.inner = 1;
      OK(dact_cpu_run(&pass, &tensors, &error));
    }
  }
  CHECK(results[0][0] == 0 && results[1][2] == 0);
}

/* With an argument on the stand-in driver, which the loader has to find. */
int main(int arguments, char **argument) {
  (void)argument;
  if (arguments > 1) OK(dact_cuda_open(0, &cuda, &error));
  every_type();
  if (cuda == NULL) refusals();
  dact_cuda_close(cuda);
  return 0;
}
