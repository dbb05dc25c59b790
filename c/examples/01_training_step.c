/* One layer's activation in a training step: forward, backward, the same in place, and inference.
 *
 *     scripts/install-c PREFIX
 *     export PKG_CONFIG_PATH=PREFIX/lib/pkgconfig
 *     cc c/examples/01_training_step.c $(pkg-config --cflags --libs drop_activation_c) && ./a.out */
#include <drop_activation.h>

#include <stdio.h>
#include <stdlib.h>

enum { N = 100 };

/* What a program does about a failure is its own business; this one says what is wrong and ends. */
static void check(dact_status status, dact_error *error) {
  if (status != DACT_OK) {
    fprintf(stderr, "%s: %s\n", dact_status_name(status), dact_error_message(error));
    dact_error_free(error);
    exit(1);
  }
}

int main(void) {
  dact_error *error = NULL;
  check(dact_check_abi(DACT_ABI_VERSION, &error), error);

  float x[N], y[N], dy[N], dx[N];
  uint32_t mask[(N + 31) / 32];
  for (int i = 0; i < N; i++) {
    x[i] = (float)i / 10 - 5;
    dy[i] = 1;
  }

  /* The paper's setting: keep ReLU with probability 0.95, else let the element through unchanged. */
  dact_pass pass = DACT_PASS_INIT;
  pass.kind = DACT_PASS_FORWARD;
  pass.key.seed = 42;
  pass.key.offset = 0; /* another one for each call: another mask */

  dact_tensors tensors = DACT_TENSORS_INIT;
  tensors.dtype = DACT_DTYPE_F32;
  tensors.len = N;
  tensors.input = x;
  tensors.output = y;
  tensors.mask = mask;
  check(dact_cpu_run(&pass, &tensors, &error), error);

  int through = 0;
  for (int i = 0; i < N; i++) through += y[i] < 0;
  printf("%d of 50 negative elements passed through a dropped ReLU\n", through);

  /* ReLU's backward pass needs the mask alone: x may be gone by then. */
  pass.kind = DACT_PASS_BACKWARD;
  tensors.input = dy;
  tensors.output = dx;
  check(dact_cpu_run(&pass, &tensors, &error), error);

  /* In place: y over x, dx over dy. */
  pass.kind = DACT_PASS_FORWARD;
  pass.key.offset = 1;
  tensors.input = tensors.output = x;
  check(dact_cpu_run(&pass, &tensors, &error), error);
  pass.kind = DACT_PASS_BACKWARD;
  tensors.input = tensors.output = dy;
  check(dact_cpu_run(&pass, &tensors, &error), error);

  /* At inference nothing is random: the mean of the training outputs. */
  pass.kind = DACT_PASS_INFER;
  x[0] = -5;
  tensors.input = x;
  tensors.output = y;
  check(dact_cpu_run(&pass, &tensors, &error), error);
  printf("inference: relu_p(%g) = %g\n", x[0], y[0]);
  return 0;
}
