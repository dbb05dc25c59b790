// The header as C++ takes it.
#include <drop_activation.h>

int main() {
  dact_pass pass = DACT_PASS_INIT;
  dact_tensors tensors = DACT_TENSORS_INIT;
  pass.kind = DACT_PASS_RELU_FORWARD;
  tensors.dtype = DACT_DTYPE_F64;
  double x[] = {-1, 2};
  tensors.len = 2;
  tensors.input = tensors.output = x;
  dact_error *error = nullptr;
  return dact_cpu_run(&pass, &tensors, &error) == DACT_OK && x[0] == 0 && x[1] == 2 ? 0 : 1;
}
