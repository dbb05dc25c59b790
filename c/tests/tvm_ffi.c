/* The functions for tvm-ffi, called as a framework does it: this program has the two functions that the library looks
 * for. On the CPU results are those of the C interface; on a stand-in for the driver, whose path is the argument,
 * passes are enqueued on the framework's stream. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>

enum { N = 1000, WORDS = (N + 31) / 32 };

/* tvm-ffi's structures, as its headers have them. */
typedef struct {
  int32_t type, id;
} device;
typedef struct {
  uint8_t code, bits;
  uint16_t lanes;
} data_type;
typedef struct {
  void *data;
  device on;
  int32_t ndim;
  data_type dtype;
  int64_t *shape, *strides;
  uint64_t byte_offset;
} dl_tensor;
typedef struct {
  int32_t type_index;
  uint32_t short_len;
  union {
    int64_t integer;
    double real;
    void *pointer;
    const char *text;
    char bytes[8];
  } value;
} any;
typedef struct {
  uint64_t references;
  int32_t type_index;
  uint32_t padding;
  void (*deleter)(void *, int);
} object;
typedef struct {
  object head;
  const char *data;
  size_t size;
} string_object;
typedef struct {
  object head;
  dl_tensor tensor;
} tensor_object;

typedef int function(void *, const any *, int32_t, any *);
function __tvm_ffi_dact_forward, __tvm_ffi_dact_forward_without_mask, __tvm_ffi_dact_backward,
    __tvm_ffi_dact_backward_saved, __tvm_ffi_dact_backward_from_output, __tvm_ffi_dact_infer,
    __tvm_ffi_dact_infer_backward, __tvm_ffi_dact_rrelu_forward, __tvm_ffi_dact_rrelu_backward,
    __tvm_ffi_dact_rrelu_infer, __tvm_ffi_dact_rrelu_infer_backward, __tvm_ffi_dact_relu_forward,
    __tvm_ffi_dact_relu_backward;

static char error_kind[64], error_text[1024];

void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text);
void TVMFFIErrorSetRaisedFromCStr(const char *kind, const char *text) {
  snprintf(error_kind, sizeof error_kind, "%s", kind);
  snprintf(error_text, sizeof error_text, "%s", text);
}

static void *const stream = (void *)0xABC;
static int32_t asked_for = -1;

void *TVMFFIEnvGetStream(int32_t type, int32_t id);
void *TVMFFIEnvGetStream(int32_t type, int32_t id) {
  CHECK(type == 2);
  asked_for = id;
  return stream;
}

static const data_type F32 = {2, 32, 1}, F64 = {2, 64, 1}, BF16 = {4, 16, 1}, U32 = {1, 32, 1}, I32 = {0, 32, 1},
                       I64 = {0, 64, 1};

static dl_tensor flat(void *data, data_type dtype, int64_t *shape) {
  dl_tensor tensor = {data, {1, 0}, 1, dtype, shape, NULL, 0};
  return tensor;
}

static any tensor(dl_tensor *at) {
  any argument = {7, 0, {0}};
  argument.value.pointer = at;
  return argument;
}

static any integer(int64_t number) {
  any argument = {1, 0, {0}};
  argument.value.integer = number;
  return argument;
}

static any real(double number) {
  any argument = {3, 0, {0}};
  argument.value.real = number;
  return argument;
}

static any text(const char *name) {
  any argument = {11, (uint32_t)strlen(name), {0}};
  memcpy(argument.value.bytes, name, strlen(name));
  return argument;
}

#define CALL(name, ...)                                                                          \
  do {                                                                                           \
    any given[] = {__VA_ARGS__}, result = {0, 0, {0}};                                           \
    if (__tvm_ffi_dact_##name(NULL, given, sizeof given / sizeof *given, &result)) {             \
      fprintf(stderr, "%s:%d: %s: %s: %s\n", __FILE__, __LINE__, #name, error_kind, error_text); \
      exit(1);                                                                                   \
    }                                                                                            \
    CHECK(result.type_index == 0);                                                               \
  } while (0)

#define FAILS(kind, words, name, ...)                                                                          \
  do {                                                                                                         \
    any given[] = {__VA_ARGS__}, result = {0, 0, {0}};                                                         \
    error_kind[0] = error_text[0] = 0;                                                                         \
    CHECK(__tvm_ffi_dact_##name(NULL, given, sizeof given / sizeof *given, &result) == -1);                    \
    if (strcmp(error_kind, kind) || !strstr(error_text, words)) {                                              \
      fprintf(stderr, "%s:%d: \"%s\" is not in: %s: %s\n", __FILE__, __LINE__, words, error_kind, error_text); \
      exit(1);                                                                                                 \
    }                                                                                                          \
  } while (0)

static float x[N], y[N], dy[N], dx[N], expected[N];
static uint32_t mask[WORDS], expected_mask[WORDS];
static int64_t n = N, words = WORDS, one = 1, two = 2;

static void fill(void) {
  for (int i = 0; i < N; i++) x[i] = (float)(i * 37 % 101) / 10 - 5, dy[i] = (float)(i * 29 % 83) - 40;
  memset(y, 0, sizeof y), memset(dx, 0, sizeof dx), memset(mask, 0, sizeof mask);
}

/* What the C interface makes of the same. */
static void by_c(dact_pass pass, const void *input, const void *saved) {
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  tensors.len = N;
  tensors.input = input;
  tensors.saved = saved;
  tensors.output = expected;
  tensors.mask = expected_mask;
  OK(dact_cpu_run(&pass, &tensors, &error));
}

static void results_are_those_of_the_c_interface(void) {
  fill();
  dl_tensor tx = flat(x, F32, &n), ty = flat(y, F32, &n), tdy = flat(dy, F32, &n), tdx = flat(dx, F32, &n),
            tm = flat(mask, U32, &words);
  dact_pass pass = DACT_PASS_INIT;
  pass.p = 0.75;
  pass.key.seed = UINT64_MAX;
  pass.key.offset = 5;
  pass.key.first = 64;
#define SAME(result) CHECK(memcmp(result, expected, sizeof expected) == 0)
#define SAME_MASK CHECK(memcmp(mask, expected_mask, sizeof mask) == 0)

  pass.kind = DACT_PASS_FORWARD, by_c(pass, x, NULL);
  CALL(forward, tensor(&tx), integer(5), tensor(&ty), tensor(&tm), real(0.75), text("relu"), integer(-1), integer(64));
  SAME(y);
  SAME_MASK;
  pass.kind = DACT_PASS_BACKWARD, by_c(pass, dy, NULL);
  CALL(backward, tensor(&tdy), tensor(&tm), tensor(&tdx));
  SAME(dx);
  pass.kind = DACT_PASS_FORWARD_WITHOUT_MASK, by_c(pass, x, NULL);
  memset(y, 0, sizeof y);
  CALL(forward_without_mask, tensor(&tx), integer(5), tensor(&ty), real(0.75), integer(-1), integer(64));
  SAME(y);
  pass.kind = DACT_PASS_BACKWARD_FROM_OUTPUT, by_c(pass, dy, y);
  CALL(backward_from_output, tensor(&tdy), tensor(&ty), tensor(&tdx));
  SAME(dx);
  pass.activation = DACT_ACTIVATION_SIGMOID;
  pass.kind = DACT_PASS_FORWARD, by_c(pass, x, NULL);
  CALL(forward, tensor(&tx), integer(5), tensor(&ty), tensor(&tm), real(0.75), text("sigmoid"), integer(-1),
       integer(64));
  SAME(y);
  SAME_MASK;
  pass.kind = DACT_PASS_BACKWARD, by_c(pass, dy, x);
  CALL(backward_saved, tensor(&tdy), tensor(&tm), tensor(&tx), tensor(&tdx), text("sigmoid"));
  SAME(dx);
  pass.kind = DACT_PASS_INFER, by_c(pass, x, NULL);
  CALL(infer, tensor(&tx), tensor(&ty), real(0.75), text("sigmoid"));
  SAME(y);
  pass.kind = DACT_PASS_INFER_BACKWARD, by_c(pass, dy, x);
  CALL(infer_backward, tensor(&tdy), tensor(&tx), tensor(&tdx), real(0.75), text("sigmoid"));
  SAME(dx);
  pass.lower = 0.25f, pass.upper = 0.5f;
  pass.kind = DACT_PASS_RRELU_FORWARD, by_c(pass, x, NULL);
  CALL(rrelu_forward, tensor(&tx), integer(5), tensor(&ty), tensor(&tm), real(0.25), real(0.5), integer(-1),
       integer(64));
  SAME(y);
  SAME_MASK;
  pass.kind = DACT_PASS_RRELU_BACKWARD, by_c(pass, dy, NULL);
  CALL(rrelu_backward, tensor(&tdy), tensor(&tm), integer(5), tensor(&tdx), real(0.25), real(0.5), integer(-1),
       integer(64));
  SAME(dx);
  pass.kind = DACT_PASS_RRELU_INFER, by_c(pass, x, NULL);
  CALL(rrelu_infer, tensor(&tx), tensor(&ty), real(0.25), real(0.5));
  SAME(y);
  pass.kind = DACT_PASS_RRELU_INFER_BACKWARD, by_c(pass, dy, x);
  CALL(rrelu_infer_backward, tensor(&tdy), tensor(&tx), tensor(&tdx), real(0.25), real(0.5));
  SAME(dx);
  pass.kind = DACT_PASS_RELU_FORWARD, by_c(pass, x, NULL);
  CALL(relu_forward, tensor(&tx), tensor(&ty));
  SAME(y);
  pass.kind = DACT_PASS_RELU_BACKWARD, by_c(pass, dy, y);
  CALL(relu_backward, tensor(&tdy), tensor(&ty), tensor(&tdx));
  SAME(dx);
}

/* Every form of an argument: offsets, strings, tensors that are objects, integers for numbers, byte offsets, shapes. */
static void arguments_come_in_several_forms(void) {
  fill();
  dact_pass pass = DACT_PASS_INIT;
  pass.kind = DACT_PASS_FORWARD;
  pass.activation = DACT_ACTIVATION_TANH;
  pass.p = 0.5;
  pass.key.seed = 3;
  pass.key.offset = 0x500000007;
  by_c(pass, x, NULL);
  int64_t whole = 0x500000007, shape[] = {10, 1, 100}, strides[] = {100, 77, 1};
  uint32_t halves[] = {7, 5};
  string_object as_object = {{1, 65, 0, NULL}, "tanh", 4};
  any names[] = {text("tanh"), {8, 0, {0}}, {65, 0, {0}}};
  names[1].value.text = "tanh";
  names[2].value.pointer = &as_object;
  dl_tensor in_words = flat(halves, U32, &two), signed_words = flat(halves, I32, &two),
            in_one = flat(&whole, I64, &one);
  any offsets[] = {tensor(&in_words), tensor(&signed_words), tensor(&in_one)};
  for (int i = 0; i < 3; i++) {
    dl_tensor ty = flat(y, F32, shape), tm = flat(mask, i ? U32 : I32, &words);
    ty.ndim = 3, ty.strides = strides;
    tensor_object tx = {{1, 70, 0, NULL}, flat(x - 3, F32, shape)};
    tx.tensor.ndim = 3, tx.tensor.byte_offset = 3 * sizeof *x;
    any input = {70, 0, {0}};
    input.value.pointer = &tx;
    memset(y, 0, sizeof y), memset(mask, 0, sizeof mask);
    CALL(forward, input, offsets[i], tensor(&ty), tensor(&tm), real(0.5), names[i], integer(3), integer(0));
    SAME(y);
    SAME_MASK;
  }
  /* No elements, no memory. */
  int64_t none = 0;
  dl_tensor tx = flat(NULL, F32, &none), tm = flat(NULL, U32, &none);
  CALL(forward, tensor(&tx), integer(0), tensor(&tx), tensor(&tm), real(0.5), text("relu"), integer(0), integer(0));
  /* An integer for a number. */
  tx = flat(x, F32, &n);
  dl_tensor ty = flat(y, F32, &n);
  pass.kind = DACT_PASS_INFER, pass.p = 1, by_c(pass, x, NULL);
  CALL(infer, tensor(&tx), tensor(&ty), integer(1), text("tanh"));
  SAME(y);
  /* In place. */
  pass.kind = DACT_PASS_RELU_FORWARD, by_c(pass, x, NULL);
  CALL(relu_forward, tensor(&tx), tensor(&tx));
  SAME(x);
}

static void mistakes_are_refused(void) {
  fill();
  int64_t more = N + 1, square[] = {10, 100}, columns[] = {1, 10}, negative = -1, huge[] = {INT64_MAX, 16};
  dl_tensor tx = flat(x, F32, &n), ty = flat(y, F32, &n), tm = flat(mask, U32, &words), longer = flat(y, F32, &more),
            doubles = flat(y, F64, &n), integers = flat(x, I64, &n), few = flat(mask, U32, &one),
            halves = flat(mask, BF16, &words), elsewhere = flat(y, F32, &n), other = flat(x, F32, &n),
            strided = flat(x, F32, square), vectors = flat(x, F32, &n), below = flat(x, F32, &negative),
            beyond = flat(x, F32, huge), no_data = flat(NULL, F32, &n), odd = flat(x, F32, &n),
            key = flat(x, F32, &two);
  elsewhere.on.type = 2, elsewhere.on.id = 1, other.on.type = 10, strided.ndim = beyond.ndim = 2;
  strided.strides = columns, vectors.dtype.lanes = 4, odd.byte_offset = 1;
#define DEFAULT text("relu"), integer(0), integer(0)
  FAILS("TypeError", "there must be 3 arguments, dy, mask, dx, got 2", backward, tensor(&tx), tensor(&tm));
  FAILS("TypeError", "x must be a tensor, got an integer", relu_forward, integer(1), tensor(&ty));
  FAILS("TypeError", "x must be a tensor, got NULL", relu_forward, tensor(NULL), tensor(&ty));
  FAILS("TypeError", "x must have dtype float32, float16, bfloat16 or float64, got dtype int64, shape [1000]",
        relu_forward, tensor(&integers), tensor(&ty));
  FAILS("TypeError", "got dtype float32 x 4, shape [1000]", relu_forward, tensor(&vectors), tensor(&ty));
  FAILS("TypeError", "y must be like x, dtype float32, shape [1000], got dtype float64, shape [1000]", relu_forward,
        tensor(&tx), tensor(&doubles));
  FAILS("ValueError", "y must be like x, dtype float32, shape [1000], got dtype float32, shape [1001]", relu_forward,
        tensor(&tx), tensor(&longer));
  FAILS("ValueError", "x must be contiguous, row-major, got shape [10, 100] and strides [1, 10]", relu_forward,
        tensor(&strided), tensor(&ty));
  FAILS("ValueError", "got shape [-1]", relu_forward, tensor(&below), tensor(&ty));
  FAILS("ValueError", "got shape [9223372036854775807, 16]", relu_forward, tensor(&beyond), tensor(&ty));
  FAILS("ValueError", "x must be on a device of DLPack's kind 1 (CPU) or 2 (CUDA), got 10", relu_forward,
        tensor(&other), tensor(&ty));
  FAILS("ValueError", "y must be where x is, on the CPU, got CUDA device 1", relu_forward, tensor(&tx),
        tensor(&elsewhere));
  FAILS("ValueError", "tensors.input (x) must be the address of 4000 bytes for this pass, got NULL", relu_forward,
        tensor(&no_data), tensor(&ty));
  FAILS("ValueError", "must be at a multiple of 4", relu_forward, tensor(&odd), tensor(&ty));
  FAILS("ValueError",
        "mask must have dtype uint32 or int32, shape [32], for the 1000 elements of dy, got dtype uint32, shape [1]",
        backward, tensor(&tx), tensor(&few), tensor(&ty));
  FAILS("ValueError", "got dtype bfloat16, shape [32]", backward, tensor(&tx), tensor(&halves), tensor(&ty));
  FAILS("ValueError", "p must be in [0, 1], got 1.5", forward, tensor(&tx), integer(0), tensor(&ty), tensor(&tm),
        real(1.5), DEFAULT);
  FAILS("TypeError", "p must be a number, got a string", forward, tensor(&tx), integer(0), tensor(&ty), tensor(&tm),
        text("0.5"), DEFAULT);
  FAILS("TypeError", "offset must be an integer of 64 bits, got a float", forward, tensor(&tx), real(0), tensor(&ty),
        tensor(&tm), real(0.5), DEFAULT);
  FAILS("TypeError",
        "offset must be one integer of 64 bits, or two of 32 bits, the low one first, got dtype float32, shape [2]",
        forward, tensor(&tx), tensor(&key), tensor(&ty), tensor(&tm), real(0.5), DEFAULT);
  FAILS("TypeError", "seed must be an integer of 64 bits, got a float", forward, tensor(&tx), integer(0), tensor(&ty),
        tensor(&tm), real(0.5), text("relu"), real(0), integer(0));
  FAILS("ValueError", "elu", forward, tensor(&tx), integer(0), tensor(&ty), tensor(&tm), real(0.5), text("elu"),
        integer(0), integer(0));
  FAILS("TypeError", "activation must be a string, got an integer", forward, tensor(&tx), integer(0), tensor(&ty),
        tensor(&tm), real(0.5), integer(0), integer(0), integer(0));
  FAILS("ValueError", "32", forward, tensor(&tx), integer(0), tensor(&ty), tensor(&tm), real(0.5), text("relu"),
        integer(0), integer(1));
  FAILS("ValueError", "lower", rrelu_infer, tensor(&tx), tensor(&ty), real(0.5), real(0.25));
  for (int i = 0; i < N; i++) CHECK(y[i] == 0);
  for (int i = 0; i < WORDS; i++) CHECK(mask[i] == 0);
}

static void on_the_stand_in(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL), *found = dlsym(library, "fake_log");
  const char *(*fake_log)(void);
  CHECK(library && found);
  memcpy(&fake_log, &found, sizeof found);
  fill();
  uint64_t base = 1000;
  dl_tensor tx = flat(x, BF16, &n), ty = flat(y, BF16, &n), tm = flat(mask, U32, &words), at = flat(&base, I64, &one);
  tx.on.type = ty.on.type = tm.on.type = at.on.type = 2;
  tx.on.id = ty.on.id = tm.on.id = at.on.id = 1;
  CALL(forward, tensor(&tx), integer(7), tensor(&ty), tensor(&tm), real(0.5), text("relu"), integer(0), integer(0));
  CHECK(asked_for == 1);
  CHECK(strstr(fake_log(), "launch da_train_forward_relu_bf16 n 1000 ") && memcmp(x, y, sizeof(uint16_t) * N) == 0);
  CALL(forward, tensor(&tx), tensor(&at), tensor(&ty), tensor(&tm), real(0.5), text("relu"), integer(0), integer(0));
  const char *log = fake_log();
  CHECK(strstr(log, " on 0xabc\n") && strstr(log, " draws at 1000\n"));
  at.on.type = 1; /* in the host's memory it is read now */
  CALL(forward, tensor(&tx), tensor(&at), tensor(&ty), tensor(&tm), real(0.5), text("relu"), integer(0), integer(0));
  CHECK(strstr(fake_log(), "draws at 1000\n") == NULL);
  at.on.type = 2, at.on.id = 0;
  FAILS("ValueError", "offset must be where x is, on CUDA device 1, got CUDA device 0", forward, tensor(&tx),
        tensor(&at), tensor(&ty), tensor(&tm), real(0.5), text("relu"), integer(0), integer(0));
  tx.on.id = ty.on.id = 2;
  FAILS("RuntimeError", "device must be one of the 2 that the driver shows, counted from 0, got 2", relu_forward,
        tensor(&tx), tensor(&ty));
  CHECK(strcmp(fake_log(), "") == 0);
}

int main(int arguments, char **argument) {
  if (arguments > 1) {
    on_the_stand_in(argument[1]);
    return 0;
  }
  results_are_those_of_the_c_interface();
  arguments_come_in_several_forms();
  mistakes_are_refused();
  return 0;
}
