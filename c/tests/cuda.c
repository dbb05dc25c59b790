/* CUDA without a GPU: where there is no driver every call says so. On a stand-in for the driver, whose path is the
 * argument, passes are enqueued on the stream that is given, and the thread's current context stays as it was. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>

enum { N = 1000 };

static void without_a_driver(void) {
  int32_t devices = -1;
  dact_cuda *cuda = (dact_cuda *)&devices;
  REFUSED(DACT_UNAVAILABLE, dact_cuda_available(&devices, out), "no CUDA driver");
  CHECK(devices == 0);
  REFUSED(DACT_UNAVAILABLE, dact_cuda_available(NULL, out), "no CUDA driver");
  REFUSED(DACT_UNAVAILABLE, dact_cuda_open(0, &cuda, out), "no CUDA driver");
  CHECK(cuda == NULL);
  dact_pass pass = DACT_PASS_INIT;
  dact_tensors tensors = DACT_TENSORS_INIT;
  pass.kind = DACT_PASS_STATISTICS;
  pass.channels = pass.inner = 1;
  tensors.dtype = DACT_DTYPE_F32;
  size_t bytes = 1;
  OK(dact_cuda_workspace_bytes(&pass, &tensors, &bytes, &error)); /* takes none */
  CHECK(bytes == 0);
}

typedef int (*get_current)(void **);
typedef int (*set_current)(void *);
typedef const char *(*get_log)(void);

/* ISO C knows no way from an object pointer to a function pointer but this. */
#define LOOK_UP(type, name, library)     \
  type name;                             \
  do {                                   \
    void *found = dlsym(library, #name); \
    CHECK(found);                        \
    memcpy(&name, &found, sizeof found); \
  } while (0)

/* A key's offset is counted from what is in device memory when the kernel runs. */
static void offsets_in_device_memory(dact_cuda *cuda, get_log fake_log) {
  static float x[N], y[N];
  static uint32_t mask[(N + 31) / 32 + 2];
  void *stream = (void *)0xABC;
  uint64_t base = 1000;
  dact_pass pass = DACT_PASS_INIT;
  pass.key.offset = 7;
  pass.key.device_offset = &base;
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  tensors.len = N;
  tensors.input = x;
  tensors.output = y;
  tensors.mask = mask;

  uint32_t drawing[] = {DACT_PASS_FORWARD, DACT_PASS_FORWARD_WITHOUT_MASK, DACT_PASS_RRELU_FORWARD,
                        DACT_PASS_RRELU_BACKWARD};
  for (size_t i = 0; i < sizeof drawing / sizeof *drawing; i++) {
    pass.kind = drawing[i];
    fake_log();
    OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
    CHECK(strstr(fake_log(), " draws at 1007\n"));
  }
  pass.kind = DACT_PASS_BACKWARD; /* draws nothing, and so looks at no address */
  pass.key.device_offset = (const uint64_t *)1;
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  CHECK(strstr(fake_log(), "draws") == NULL);

  OK(dact_cuda_advance(cuda, stream, &base, 8, &error));
  const char *log = fake_log();
  CHECK(strstr(log, "launch da_advance ") == log && strstr(log, " on 0xabc\n") && base == 1008);

  pass.kind = DACT_PASS_FORWARD;
  pass.key.device_offset = (const uint64_t *)(void *)((char *)&base + 4);
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "pass.key.device_offset (base) must be at a multiple of 8");
  pass.key.device_offset = (const uint64_t *)(void *)y;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "pass.key.device_offset (base), bytes", "must not overlap tensors.output (y)");
  uintptr_t in_mask = ((uintptr_t)mask + 7) / 8 * 8;
  pass.key.device_offset = (const uint64_t *)in_mask;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "must not overlap tensors.mask (mask)");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_advance(cuda, stream, NULL, 8, out),
          "base must be an address on the device, got NULL");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_advance(cuda, stream, (uint64_t *)(void *)((char *)&base + 1), 8, out),
          "base must be at a multiple of 8 bytes, got 0x");
  CHECK(strcmp(fake_log(), "") == 0 && base == 1008);
}

/* Of a pass over channels: kernels by their names, what they are given, and what is refused before any is launched. */
static void channels(dact_cuda *cuda, get_log fake_log) {
  enum { CHANNELS = 8, OUTER = 125 };
  static float x[N], y[N], dy[N], vectors[6][CHANNELS], first[CHANNELS], second[CHANNELS];
  static uint32_t mask[(N + 31) / 32];
  static double workspace[2 * CHANNELS];
  void *stream = (void *)0xABC;
  dact_pass pass = DACT_PASS_INIT;
  pass.kind = DACT_PASS_FUSED_FORWARD;
  pass.channels = CHANNELS;
  pass.inner = 1;
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  tensors.len = N;
  tensors.input = x;
  tensors.output = y;
  tensors.mask = mask;
  tensors.scale = vectors[0];
  tensors.shift = vectors[1];
  size_t bytes = 1;
  OK(dact_cuda_workspace_bytes(&pass, &tensors, &bytes, &error));
  CHECK(bytes == 0);
  fake_log();
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  const char *log = fake_log();
  CHECK(strstr(log, "launch da_fused_forward_relu_f32 n 1000 ") == log && strstr(log, " on 0xabc\n"));
  CHECK(strstr(log + 1, "launch ") == NULL);
  uint64_t base = 1000;
  pass.key.offset = 7;
  pass.key.device_offset = &base;
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  CHECK(strstr(fake_log(), " draws at 1007\n"));

  pass.kind = DACT_PASS_STATISTICS;
  tensors.results[0] = first;
  tensors.results[1] = second;
  OK(dact_cuda_workspace_bytes(&pass, &tensors, &bytes, &error));
  CHECK(bytes == 3 * CHANNELS * sizeof(float) && bytes <= sizeof workspace);
  tensors.workspace = workspace;
  tensors.workspace_bytes = bytes;
  fake_log();
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  log = fake_log();
  CHECK(strstr(log, "launch da_fused_moments_f32 n 1000 ") == log);
  CHECK(strstr(log, "\nlaunch da_fused_moments_total_f32 n 1000 "));

  pass.kind = DACT_PASS_FUSED_SUMS;
  pass.dz = DACT_DZ_TRAINING;
  tensors.input = dy;
  tensors.saved = x;
  tensors.mean = vectors[2];
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  CHECK(strstr(fake_log(), "launch da_fused_products_relu_f32 "));
  pass.kind = DACT_PASS_FUSED_BACKWARD;
  tensors.alpha = vectors[3];
  tensors.beta = vectors[4];
  tensors.gamma = vectors[5];
  tensors.workspace = NULL;
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  log = fake_log();
  CHECK(strstr(log, "launch da_fused_backward_relu_f32 ") == log && strstr(log + 1, "launch ") == NULL);

  pass.kind = DACT_PASS_FUSED_SUMS;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "tensors.workspace (intermediate sums) must be the address of 64 bytes", "got NULL");
  tensors.workspace = (char *)workspace + 4;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "tensors.workspace (intermediate sums) must be at a multiple of 8", "got 0x");
  tensors.workspace = workspace;
  tensors.workspace_bytes = 63;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "tensors.workspace_bytes must be 64 or more, as dact_cuda_workspace_bytes says, got 63");
  tensors.workspace_bytes = 64;
  tensors.workspace = y; /* which is dr here */
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out), "tensors.workspace",
          "must not overlap tensors.output (dr)");
  tensors.workspace = workspace;
  tensors.mean = workspace;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out), "tensors.workspace",
          "must not overlap tensors.mean");
  tensors.mean = vectors[2];
  pass.channels = 3;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out), "1000 elements", "channels = 3");
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_workspace_bytes(&pass, &tensors, &bytes, out), "channels = 3");
  pass.channels = CHANNELS;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_workspace_bytes(&pass, &tensors, NULL, out), "bytes must be", "got NULL");
  pass.kind = DACT_PASS_FUSED_BACKWARD;
  tensors.gamma = NULL;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "gamma must be an address on the device, got NULL");
  CHECK(strcmp(fake_log(), "") == 0);

  /* Sums of no elements: no tensor has an address, and no workspace is needed. */
  dact_tensors none = DACT_TENSORS_INIT;
  none.dtype = DACT_DTYPE_F32;
  none.results[0] = first;
  pass.kind = DACT_PASS_FUSED_SUMS;
  OK(dact_cuda_run(cuda, stream, &pass, &none, &error));
  log = fake_log();
  CHECK(strstr(log, "launch da_fused_sums_total_f32 n 0 ") == log);
  pass.kind = DACT_PASS_FUSED_BACKWARD;
  OK(dact_cuda_run(cuda, stream, &pass, &none, &error));
  CHECK(strcmp(fake_log(), "") == 0);
}

static void on_the_stand_in(const char *path) {
  void *library = dlopen(path, RTLD_NOW | RTLD_GLOBAL);
  CHECK(library);
  LOOK_UP(get_current, cuCtxGetCurrent, library);
  LOOK_UP(set_current, cuCtxSetCurrent, library);
  LOOK_UP(get_log, fake_log, library);

  int32_t devices = -1;
  dact_cuda *cuda = NULL;
  OK(dact_cuda_available(&devices, &error));
  CHECK(devices == 2);
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_open(-1, &cuda, out), "device must be 0 or above, got -1");
  REFUSED(DACT_UNAVAILABLE, dact_cuda_open(2, &cuda, out), "device must be one of the 2 that the driver shows",
          "got 2");

  void *mine = &devices, *current;
  cuCtxSetCurrent(mine);
  OK(dact_cuda_open(1, &cuda, &error));
  CHECK((cuCtxGetCurrent(&current), current) == mine);
  OK(dact_cuda_preload(cuda, &error));
  CHECK((cuCtxGetCurrent(&current), current) == mine);

  static uint16_t x[N + 1], y[N];
  static uint32_t mask[(N + 31) / 32];
  for (int i = 0; i < N; i++) x[i] = (uint16_t)i;
  dact_pass pass = DACT_PASS_INIT;
  pass.kind = DACT_PASS_FORWARD;
  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_BF16;
  tensors.len = N;
  tensors.input = x;
  tensors.output = y;
  tensors.mask = mask;
  void *stream = (void *)0xABC;
  fake_log();
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  const char *log = fake_log();
  CHECK(strstr(log, "launch da_train_forward_relu_bf16 n 1000 ") == log && strstr(log, " on 0xabc\n"));
  CHECK((cuCtxGetCurrent(&current), current) == mine);
  CHECK(memcmp(x, y, sizeof y) == 0 && mask[31] == 0xFF);
  tensors.output = x;
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  tensors.len = 0;
  fake_log();
  OK(dact_cuda_run(cuda, stream, &pass, &tensors, &error));
  tensors.len = N;
  tensors.output = x + 1;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "must not overlap tensors.input (x)");
  tensors.output = (char *)y + 1;
  REFUSED(DACT_INVALID_ARGUMENT, dact_cuda_run(cuda, stream, &pass, &tensors, out),
          "tensors.output (y) must be at a multiple of 2", "got 0x");
  CHECK(strcmp(fake_log(), "") == 0);
  offsets_in_device_memory(cuda, fake_log);
  channels(cuda, fake_log);
  CHECK((cuCtxGetCurrent(&current), current) == mine);

  dact_cuda_close(cuda);
  CHECK((cuCtxGetCurrent(&current), current) == mine);
}

int main(int arguments, char **argument) {
  if (arguments == 1) {
    without_a_driver();
  } else {
    on_the_stand_in(argument[1]);
  }
  return 0;
}
