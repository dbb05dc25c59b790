/* Every mistake that can be noticed is refused, with words that help, and nothing is written. */
#include "activations.h"
#include "check.h"

enum { N = 100, WORDS = (N + 31) / 32 };

static float x[N + 1], y[N + 1];
static uint32_t mask[WORDS + 1];
static dact_pass pass;
static dact_tensors tensors;

/* A call that is in order. */
static void in_order(void) {
  dact_pass p = DACT_PASS_INIT;
  dact_tensors t = DACT_TENSORS_INIT;
  p.kind = DACT_PASS_FORWARD;
  t.dtype = DACT_DTYPE_F32;
  t.len = N;
  t.input = x;
  t.output = y;
  t.mask = mask;
  pass = p;
  tensors = t;
}

#define RUN dact_cpu_run(&pass, &tensors, out)
/* The call in order, but for one change. */
#define BUT(change, ...)                              \
  do {                                                \
    in_order();                                       \
    change;                                           \
    REFUSED(DACT_INVALID_ARGUMENT, RUN, __VA_ARGS__); \
  } while (0)

static void *at(const void *address, size_t bytes) { return (char *)address + bytes; }

int main(void) {
  memset(y, 0x5A, sizeof y);
  memset(mask, 0x5A, sizeof mask);

  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run(NULL, &tensors, out),
          "pass must be the address of a dact_pass, got NULL");
  in_order();
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run(&pass, NULL, out),
          "tensors must be the address of a dact_tensors, got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run((const dact_pass *)at(&pass, 1), &tensors, out),
          "pass must be at a multiple of 8 bytes");
  BUT(pass.struct_size = 0, "pass.struct_size must be sizeof(dact_pass), which is 88, got 0", "DACT_PASS_INIT");
  BUT(pass.struct_size = 4097, "pass.struct_size must be sizeof(dact_pass), which is 88, got 4097");
  BUT(pass.struct_size = 0xFFFFFFFF, "got 4294967295");
  BUT(tensors.struct_size = 47, "tensors.struct_size must be", "136, got 47");

  BUT(pass.kind = 0, "pass.kind must be in [1, 17]", "got 0");
  BUT(pass.kind = 18, "pass.kind must be", "got 18");
  char given[32], last[64];
  sprintf(given, "got %d", ACTIVATION_COUNT);
  sprintf(last, "%d (%s)", ACTIVATION_COUNT - 1, ACTIVATIONS[ACTIVATION_COUNT - 1].name);
  BUT(pass.activation = ACTIVATION_COUNT, "pass.activation must be one of 0 (relu), ", last, given);
  BUT(pass.reserved = 1, "pass.reserved must be 0, got 1");
  BUT(pass.p = 1.5, "p must be in [0, 1]", "got 1.5");
  BUT(pass.p = -0.1, "got -0.1");
  BUT(pass.p = 0.0 / 0.0 * (x[0] + 1), "got NaN");
  BUT(pass.key.first = 33, "first must be a multiple of 32", "got 33");
  BUT(pass.key.first = UINT64_MAX - 63, "first = 18446744073709551552", "100 elements", "2^64");
  BUT(pass.key.device_offset = &pass.key.offset, "pass.key.device_offset must be NULL on the CPU, got 0x");
  BUT((pass.kind = DACT_PASS_RRELU_FORWARD, pass.lower = 0), "lower = 0", "0 < lower <= upper <= 1");
  BUT((pass.kind = DACT_PASS_RRELU_INFER, pass.upper = 2), "upper = 2");
  BUT((pass.kind = DACT_PASS_FORWARD_WITHOUT_MASK, pass.activation = DACT_ACTIVATION_GELU), "gelu", "relu");

  BUT(tensors.dtype = 0, "tensors.dtype must be one of 1 (f32)", "4 (f64), got 0");
  BUT(tensors.dtype = 5, "tensors.dtype must be", "got 5");
  BUT(tensors.len = SIZE_MAX, "tensors.len must be at most 1125899906842623 elements of f32, got 18446744073709551615");
  BUT(tensors.len = (size_t)1 << 50, "tensors.len must be at most");
  BUT(tensors.input = (const void *)(uintptr_t)-64, "tensors.input (x) must be",
      "got 0xffffffffffffffc0, which is too near the end of memory");
  BUT(tensors.input = NULL, "tensors.input (x) must be the address of 400 bytes", "got NULL");
  BUT(tensors.output = NULL, "tensors.output (y) must be", "got NULL");
  BUT(tensors.mask = NULL, "tensors.mask (mask) must be the address of 16 bytes", "got NULL");
  BUT((pass.kind = DACT_PASS_INFER_BACKWARD), "tensors.saved (x) must be", "got NULL");
  BUT((pass.kind = DACT_PASS_RELU_BACKWARD), "tensors.saved (y) must be", "got NULL");
  BUT((pass.kind = DACT_PASS_BACKWARD, tensors.input = NULL), "tensors.input (dy) must be", "got NULL");
  BUT(tensors.input = at(x, 2), "tensors.input (x) must be at a multiple of 4, the size of an element, got 0x");
  BUT(tensors.output = at(y, 1), "tensors.output (y) must be at a multiple of 4", "got 0x");
  BUT(tensors.mask = at(mask, 2), "tensors.mask (mask) must be at a multiple of 4", "got 0x");
  BUT(tensors.output = x + 1, "tensors.output (y), bytes 0x", "must not overlap tensors.input (x)");
  BUT((tensors.input = y + 1), "tensors.output (y)", "must not overlap tensors.input (x)");
  BUT((tensors.mask = (uint32_t *)(void *)y), "tensors.mask (mask)", "must not overlap tensors.output (y)");
  BUT((tensors.mask = (uint32_t *)(void *)(x + 50)), "tensors.mask (mask)", "must not overlap tensors.input (x)");
  BUT((pass.kind = DACT_PASS_INFER_BACKWARD, tensors.saved = y + 1), "tensors.output (dx)",
      "must not overlap tensors.saved (x)");

  dact_key key = {1, 2, 0, NULL};
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, NULL, N, mask, out),
          "key must be the address of a dact_key, a multiple of 8 bytes, got 0x0");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(2, &key, N, mask, out), "p must be in [0, 1], got 2");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, NULL, out), "words (mask) must be", "got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, at(mask, 1), out),
          "words (mask) must be at a multiple of 4", "got 0x");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, SIZE_MAX, mask, out), "len must be at most",
          "elements of a mask, got 18446744073709551615");
  key.device_offset = &key.offset;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, mask, out),
          "key.device_offset must be NULL on the CPU, got 0x");
  key.device_offset = NULL;
  key.first = 1;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, mask, out), "first must be", "got 1");

  REFUSED(DACT_UNSUPPORTED, dact_check_abi(DACT_ABI_VERSION + 1, out), "abi_version must be", "1, got 2");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_open(0, NULL, out), "cuda must be", "got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_preload(NULL, out), "cuda must be", "got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(NULL, NULL, &pass, &tensors, out), "cuda must be", "got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_advance(NULL, NULL, &key.offset, 1, out), "cuda must be", "got NULL");
  dact_cuda_close(NULL);
  dact_error_free(NULL);
  CHECK(strcmp(dact_error_message(NULL), "") == 0);
  CHECK(strcmp(dact_status_name(DACT_OK), "ok") == 0);
  CHECK(strcmp(dact_status_name(-7), "unknown status") == 0);
  for (uint32_t code = 0; code < ACTIVATION_COUNT; code++) {
    CHECK(strcmp(dact_activation_name(code), ACTIVATIONS[code].name) == 0);
  }
  CHECK(!dact_activation_name(ACTIVATION_COUNT) && !dact_activation_name(UINT32_MAX));
  CHECK(strlen(dact_cuda_device_code()) > 3);

  for (size_t i = 0; i < sizeof y; i++) CHECK(((unsigned char *)y)[i] == 0x5A);
  for (size_t i = 0; i < sizeof mask; i++) CHECK(((unsigned char *)mask)[i] == 0x5A);

  /* What a pass has no use for is not looked at; a tensor without elements has no address. */
  in_order();
  tensors.saved = at(x, 1);
  OK(dact_cpu_run(&pass, &tensors, &error));
  dact_tensors none = DACT_TENSORS_INIT;
  none.dtype = DACT_DTYPE_F64;
  for (pass.kind = DACT_PASS_FORWARD; pass.kind <= DACT_PASS_RELU_BACKWARD; pass.kind++) {
    OK(dact_cpu_run(&pass, &none, &error));
  }
  key.first = 0;
  OK(dact_cpu_keep_mask(0.5, &key, 0, NULL, &error));
  return 0;
}
