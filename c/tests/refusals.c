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

  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run(NULL, &tensors, out), "pass is NULL", "dact_pass");
  in_order();
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run(&pass, NULL, out), "tensors is NULL", "dact_tensors");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_run((const dact_pass *)at(&pass, 1), &tensors, out), "pass is at", "8");
  BUT(pass.struct_size = 0, "pass.struct_size is 0", "sizeof(dact_pass)", "88", "DACT_PASS_INIT");
  BUT(pass.struct_size = 0xFFFFFFFF, "pass.struct_size is 4294967295");
  BUT(tensors.struct_size = 47, "tensors.struct_size is 47", "120");

  BUT(pass.kind = 0, "pass.kind is 0", "1 to 17");
  BUT(pass.kind = 18, "pass.kind is 18");
  char given[32], last[64];
  sprintf(given, "pass.activation is %d", ACTIVATION_COUNT);
  sprintf(last, "%d (%s)", ACTIVATION_COUNT - 1, ACTIVATIONS[ACTIVATION_COUNT - 1].name);
  BUT(pass.activation = ACTIVATION_COUNT, given, last);
  BUT(pass.reserved = 1, "pass.reserved is 1");
  BUT(pass.p = 1.5, "p must be in [0, 1]", "got 1.5");
  BUT(pass.p = -0.1, "got -0.1");
  BUT(pass.p = 0.0 / 0.0 * (x[0] + 1), "got NaN");
  BUT(pass.key.first = 33, "first is 33", "multiples of 32");
  BUT(pass.key.first = UINT64_MAX - 63, "first = 18446744073709551552", "100 elements", "2^64");
  BUT(pass.key.device_offset = &pass.key.offset, "pass.key.device_offset is 0x", "NULL");
  BUT((pass.kind = DACT_PASS_RRELU_FORWARD, pass.lower = 0), "lower = 0", "0 < lower <= upper <= 1");
  BUT((pass.kind = DACT_PASS_RRELU_INFER, pass.upper = 2), "upper = 2");
  BUT((pass.kind = DACT_PASS_FORWARD_WITHOUT_MASK, pass.activation = DACT_ACTIVATION_GELU), "gelu", "relu");

  BUT(tensors.dtype = 0, "tensors.dtype is 0", "1 (f32)");
  BUT(tensors.dtype = 5, "tensors.dtype is 5", "4 (f64)");
  BUT(tensors.len = SIZE_MAX, "tensors.len is 18446744073709551615", "1125899906842623 elements of f32");
  BUT(tensors.len = (size_t)1 << 50, "tensors.len is");
  BUT(tensors.input = (const void *)(uintptr_t)-64, "tensors.input (x) is 0xffffffffffffffc0", "beyond the end");
  BUT(tensors.input = NULL, "tensors.input (x) is NULL", "400 bytes");
  BUT(tensors.output = NULL, "tensors.output (y) is NULL");
  BUT(tensors.mask = NULL, "tensors.mask (mask) is NULL", "16 bytes");
  BUT((pass.kind = DACT_PASS_INFER_BACKWARD), "tensors.saved (x) is NULL");
  BUT((pass.kind = DACT_PASS_RELU_BACKWARD), "tensors.saved (y) is NULL");
  BUT((pass.kind = DACT_PASS_BACKWARD, tensors.input = NULL), "tensors.input (dy) is NULL");
  BUT(tensors.input = at(x, 2), "tensors.input (x) is 0x", "multiples of 4");
  BUT(tensors.output = at(y, 1), "tensors.output (y) is 0x", "multiples of 4");
  BUT(tensors.mask = at(mask, 2), "tensors.mask (mask) is 0x", "multiples of 4");
  BUT(tensors.output = x + 1, "tensors.output (y), bytes 0x", "overlaps tensors.input (x)");
  BUT((tensors.input = y + 1), "tensors.output (y)", "overlaps tensors.input (x)");
  BUT((tensors.mask = (uint32_t *)(void *)y), "tensors.mask (mask)", "overlaps tensors.output (y)");
  BUT((tensors.mask = (uint32_t *)(void *)(x + 50)), "tensors.mask (mask)", "overlaps tensors.input (x)");
  BUT((pass.kind = DACT_PASS_INFER_BACKWARD, tensors.saved = y + 1), "tensors.output (dx)",
      "overlaps tensors.saved (x)");

  dact_key key = {1, 2, 0, NULL};
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, NULL, N, mask, out), "key is 0x0");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(2, &key, N, mask, out), "p must be in [0, 1], got 2");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, NULL, out), "words (mask) is NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, at(mask, 1), out), "words (mask) is 0x");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, SIZE_MAX, mask, out), "len is 18446744073709551615");
  key.device_offset = &key.offset;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, mask, out), "key.device_offset is 0x", "NULL");
  key.device_offset = NULL;
  key.first = 1;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cpu_keep_mask(0.5, &key, N, mask, out), "first is 1");

  REFUSED(DACT_UNSUPPORTED, dact_check_abi(DACT_ABI_VERSION + 1, out), "abi_version is 2", "has 1");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_open(0, NULL, out), "cuda is NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_preload(NULL, out), "cuda is NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(NULL, NULL, &pass, &tensors, out), "cuda is NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_advance(NULL, NULL, &key.offset, 1, out), "cuda is NULL");
  dact_cuda_close(NULL);
  dact_error_free(NULL);
  CHECK(strcmp(dact_error_message(NULL), "") == 0);
  CHECK(strcmp(dact_status_name(DACT_OK), "ok") == 0);
  CHECK(strcmp(dact_status_name(-7), "unknown status") == 0);
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
