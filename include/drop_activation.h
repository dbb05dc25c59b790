/* Drop-Activation in C: the caller's pointers, the caller's stream, the caller's memory, no global state.
 *
 * Made from c/src by cbindgen: `BLESS=1 cargo test -p drop-activation-c --test header`. docs/abi.md says what
 * stays as it is; c/examples/ shows the use.
 *
 * A call is two structures: dact_pass says what is computed, dact_tensors on what. Begin with DACT_PASS_INIT and
 * DACT_TENSORS_INIT and set what differs. Functions that can fail return a dact_status, and where the caller wants
 * it a dact_error with a message that names the argument, what was given and what is allowed. Nothing was written
 * then. Any function may be called from any number of threads at once. */

#ifndef DROP_ACTIVATION_C_INTERFACE_H
#define DROP_ACTIVATION_C_INTERFACE_H



#include <stddef.h>
#include <stdint.h>

// `x <= 0 ? +0 : x`.
#define DACT_ACTIVATION_RELU 0

// `1 / (1 + exp(-x))`.
#define DACT_ACTIVATION_SIGMOID 1

// `tanh(x)`.
#define DACT_ACTIVATION_TANH 2

// `x (1 + erf(x / sqrt(2))) / 2`.
#define DACT_ACTIVATION_GELU 3

// `x / (1 + exp(-x))`.
#define DACT_ACTIVATION_SILU 4

/* Drop-Activation with ReLU, p = 0.95, and RReLU's slopes of the paper; the kind is to be set. */
#define DACT_PASS_INIT \
  { sizeof(dact_pass), 0, DACT_ACTIVATION_RELU, 0, 0.95, 0.125f, 1.0f / 3.0f, { 0, 0, 0, NULL }, 0, 0, 0, 0 }

/* No tensors; the dtype, the length and the addresses are to be set. */
#define DACT_TENSORS_INIT \
  { sizeof(dact_tensors), 0, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, { NULL, NULL },  \
    NULL, 0 }

// Training forward, `y = keep ? σ(x) : x`: reads input x, writes output y and the mask.
#define DACT_PASS_FORWARD 1

// The same for ReLU alone, without a mask.
#define DACT_PASS_FORWARD_WITHOUT_MASK 2

// Training backward, `dx = keep ? dy σ'(x) : dy`: reads input dy, the mask and, but for ReLU, saved x; writes
// output dx.
#define DACT_PASS_BACKWARD 3

// ReLU's training backward without a mask, `dx = (y == 0) ? +0 : dy`: reads input dy and saved y, writes output
// dx.
#define DACT_PASS_BACKWARD_FROM_OUTPUT 4

// Inference forward, `y = (1-p) x + p σ(x)`: reads input x, writes output y.
#define DACT_PASS_INFER 5

// Inference backward, `dx = dy ((1-p) + p σ'(x))`: reads input dy and saved x, writes output dx.
#define DACT_PASS_INFER_BACKWARD 6

// RReLU's training forward, `y = x >= 0 ? x : U x`, U uniform between lower and upper: reads input x, writes
// output y and the mask.
#define DACT_PASS_RRELU_FORWARD 7

// RReLU's training backward, `dx = x >= 0 ? dy : U dy` with U drawn again from the forward pass's key: reads
// input dy and the mask, writes output dx.
#define DACT_PASS_RRELU_BACKWARD 8

// RReLU's inference forward, `y = x >= 0 ? x : (lower + upper)/2 x`: reads input x, writes output y.
#define DACT_PASS_RRELU_INFER 9

// RReLU's inference backward, `dx = x >= 0 ? dy : (lower + upper)/2 dy`: reads input dy and saved x, writes
// output dx.
#define DACT_PASS_RRELU_INFER_BACKWARD 10

// Plain ReLU, `y = x <= 0 ? +0 : x`: reads input x, writes output y.
#define DACT_PASS_RELU_FORWARD 11

// Plain ReLU's backward, `dx = y <= 0 ? +0 : dy`: reads input dy and saved y, writes output dx.
#define DACT_PASS_RELU_BACKWARD 12

// Training forward on `z = scale[c] x + shift[c] + residual`, where c is the element's channel: `y = keep ? σ(z) : z`.
// Reads input x and, where they are not NULL, residual, scale and shift; writes output y and the mask. This and the
// passes after it take the channels and the inner extent of their tensors; docs/fused.md says what they compute.
#define DACT_PASS_FUSED_FORWARD 13

// Inference forward on the same z, `y = (1-p) z + p σ(z)`: reads and writes the same, but for the mask.
#define DACT_PASS_FUSED_INFER 14

// Mean and biased variance of each channel: reads input x, writes the vectors results[0] (mean) and results[1]
// (variance).
#define DACT_PASS_STATISTICS 15

// The sums of a backward pass: reads input dy and writes the vector results[0], `s1[c] = Σ dz`; where mean is not
// NULL, reads saved x too and writes results[1], `s2[c] = Σ dz (x - mean[c])`; where output is not NULL, writes `dr = dz`
// there. For dz it reads the mask, or saved x and, where they are not NULL, residual, scale and shift: see DACT_DZ_.
#define DACT_PASS_FUSED_SUMS 16

// Backward, `dx = alpha[c] dz + (beta[c] (x - mean[c]) + gamma[c])`: reads input dy, what dz is computed from, alpha
// where it is not NULL, and beta, gamma, mean and saved x where these are not NULL, which go together; writes output dx.
#define DACT_PASS_FUSED_BACKWARD 17

// `dz = dy`: it was computed before.
#define DACT_DZ_GIVEN 0

// As in training, `dz = keep ? dy σ'(z) : dy`, and for ReLU `dz = pass ? dy : +0`: from the mask and, but for ReLU, z.
#define DACT_DZ_TRAINING 1

// As at inference, `dz = dy ((1-p) + p σ'(z))`: from z.
#define DACT_DZ_INFERENCE 2

// IEEE binary32.
#define DACT_DTYPE_F32 1

// IEEE binary16.
#define DACT_DTYPE_F16 2

// bfloat16, the upper half of a binary32.
#define DACT_DTYPE_BF16 3

// IEEE binary64.
#define DACT_DTYPE_F64 4

// The version of the binary interface: it grows when a program that was compiled for the one before would no
// longer work.
#define DACT_ABI_VERSION 1

// The version of the library.
#define DACT_VERSION_MAJOR 0

// The version of the library.
#define DACT_VERSION_MINOR 1

// The version of the library.
#define DACT_VERSION_PATCH 0

// The kernels on one CUDA device, in its primary context, which is the one that the CUDA runtime and so every
// framework uses. Opaque.
typedef struct dact_cuda dact_cuda;

// Why a call failed. Opaque; taken back by dact_error_free.
typedef struct dact_error dact_error;

// How a call ended: one of the DACT_ status codes. Later versions may add others.
typedef int32_t dact_status;

// Names the random stream of one call: equal keys give equal masks on every device. A fresh mask takes another
// offset. This structure does not grow.
typedef struct dact_key {
  // Chooses the stream, together with the offset.
  uint64_t seed;
  // Another one for each call.
  uint64_t offset;
  // The global index of element 0, a multiple of 32: 0, unless the tensor is a shard of a larger one.
  uint64_t first;
  // NULL, or for dact_cuda_run the device address of a base, at a multiple of 8: what is there when the kernel
  // runs is added to `offset`, modulo 2^64. So a captured graph draws fresh masks at every replay, if the base moves
  // on in between, as by dact_cuda_advance at the end of the step. RReLU's backward pass draws again and so has to
  // find the base as its forward pass found it: advance after it, or copy the base aside (cuMemcpyDtoDAsync) and
  // give both passes the copy's address. On the CPU only NULL is allowed.
  const uint64_t *device_offset;
} dact_key;

// What is computed. Fields that the kind has no use for are not looked at.
typedef struct dact_pass {
  // sizeof(dact_pass).
  uint32_t struct_size;
  // One of DACT_PASS_.
  uint32_t kind;
  // One of DACT_ACTIVATION_.
  uint32_t activation;
  // 0.
  uint32_t reserved;
  // The probability of keeping the nonlinearity, 0 <= p <= 1.
  double p;
  // RReLU's smallest slope, 0 < lower <= upper <= 1.
  float lower;
  // RReLU's largest slope.
  float upper;
  // For a training forward pass, and RReLU's backward pass.
  struct dact_key key;
  // For a pass over channels: how many there are, at least 1.
  size_t channels;
  // For a pass over channels: how many neighbouring elements belong to one. Element i belongs to channel
  // `i / inner % channels`: 1 for rows of features and channels-last images, height times width for channels-first
  // images. The length of the tensors is a multiple of channels times inner.
  size_t inner;
  // For a backward pass over channels: one of DACT_DZ_.
  uint32_t dz;
  // 0.
  uint32_t reserved2;
} dact_pass;

// The tensors of a call: contiguous, of one type and one length. Addresses are of the host for dact_cpu_run and of
// the device for dact_cuda_run, at multiples of the element's size. Those that the pass has no use for are not
// looked at; for a length of 0 those with elements are not.
//
// Those from `residual` on are for passes over channels, and each may be NULL where the pass does not say that it needs
// it. All but the residual are vectors with a value for each channel, float, or double where the elements are; for a
// length of 0 too, where all sums are 0.
//
// The output may be the input (in place) and, but for a pass over channels, the saved tensor. Else what is written
// overlaps with nothing.
typedef struct dact_tensors {
  // sizeof(dact_tensors).
  uint32_t struct_size;
  // One of DACT_DTYPE_.
  uint32_t dtype;
  // Elements of each tensor.
  size_t len;
  // x of a forward pass, dy of a backward pass. Read.
  const void *input;
  // x or y of the forward pass, for those backward passes that need it. Read.
  const void *saved;
  // y of a forward pass, dx of a backward pass; dr of DACT_PASS_FUSED_SUMS, if it is wanted. Written.
  void *output;
  // dact_mask_words(len) words: element i is bit i % 32, least significant first, of word i / 32. Written by a
  // forward pass, with unused bits zero; read by a backward pass.
  uint32_t *mask;
  // r, as long as the input: added to z. Read.
  const void *residual;
  // What x is multiplied by; NULL is 1. Read.
  const void *scale;
  // What is added to that; NULL is 0. Read.
  const void *shift;
  // What x is taken relative to by a backward pass. Read.
  const void *mean;
  // The factor of dz in dx; NULL is 1. Read.
  const void *alpha;
  // The factor of `x - mean[c]` in dx; NULL is 0, and so is gamma then. Read.
  const void *beta;
  // The summand of dx. Read.
  const void *gamma;
  // Mean and variance, or s1 and s2. Written.
  void *results[2];
  // For dact_cuda_run and sums: memory for what is summed on the way, at a multiple of 8. What is in it before and
  // after does not matter. Written.
  void *workspace;
  // Bytes at `workspace`: no fewer than dact_cuda_workspace_bytes says.
  size_t workspace_bytes;
} dact_tensors;

// All went well.
#define DACT_OK 0

// An argument is not allowed.
#define DACT_INVALID_ARGUMENT 1

// There is no CUDA driver or no such device, or the library was built without CUDA.
#define DACT_UNAVAILABLE 2

// This library, or its device code on this device, cannot do it.
#define DACT_UNSUPPORTED 3

// The CUDA driver refused, or reports an error of earlier work.
#define DACT_DRIVER_ERROR 4

// A defect of this library. Please report the message.
#define DACT_INTERNAL_ERROR 5

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// Runs a pass on tensors in host memory and returns when it is done. Long tensors are shared by the threads of
// rayon's pool, as many as RAYON_NUM_THREADS says or the machine has; the calling thread does alone what these have no
// time for, and all of it in a process that was forked from one that had used this library. Results do not depend on
// the thread's floating-point environment, which is as before when the function returns. It needs 64 KiB of
// stack, or 512 if the library was built without optimisation.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `pass` and `tensors` are NULL or the addresses of such structures. Where the pass reads or writes, there are as
// many elements or words as `tensors` says, and no other thread writes what it reads or touches what it writes.
// `error` is NULL or the address of a pointer.
dact_status dact_cpu_run(const struct dact_pass *pass,
                         const struct dact_tensors *tensors,
                         struct dact_error **error);

// The keep bits of `len` elements by themselves, packed as a mask is: the bits that a training forward pass with
// the same p and key draws. Writes dact_mask_words(len) words.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `key` is NULL or the address of a key. At `words` there are as many words as `len` says, and no other thread
// touches them. `error` is NULL or the address of a pointer.
dact_status dact_cpu_keep_mask(double p,
                               const struct dact_key *key,
                               size_t len,
                               uint32_t *words,
                               struct dact_error **error);

// Whether there is a CUDA driver and a device: DACT_OK, or DACT_UNAVAILABLE and the reason. `devices` may be NULL;
// else it is set to the number of devices.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `devices` is NULL or the address of an integer, `error` is NULL or the address of a pointer.
dact_status dact_cuda_available(int32_t *devices,
                                struct dact_error **error);

// Which device code the library holds, and who compiled it; never freed.
const char *dact_cuda_device_code(void);

// The kernels on a device, counted from 0 as the CUDA runtime does, for dact_cuda_close to take back. It may be
// used by any number of threads at once, and for one device there may be several.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `cuda` is NULL or the address of a pointer, `error` is NULL or the address of a pointer.
dact_status dact_cuda_open(int32_t device,
                           struct dact_cuda **cuda,
                           struct dact_error **error);

// Gives the kernels back: waits for the device's work if nobody else holds them. Does nothing for NULL.
//
// # Safety
// `cuda` is NULL or came from dact_cuda_open, was not closed, and is not used again, also by graphs that captured
// its work.
void dact_cuda_close(struct dact_cuda *cuda);

// Loads all kernels now, so that no later call has to: before a graph is captured, while which nothing may be
// loaded.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `cuda` is NULL or came from dact_cuda_open and was not closed. `error` is NULL or the address of a pointer.
dact_status dact_cuda_preload(const struct dact_cuda *cuda, struct dact_error **error);

// Enqueues a pass on tensors in device memory and returns before it is done. `stream` is the CUstream or
// cudaStream_t, NULL for the default stream. Allocates nothing and waits for nothing, so it may be captured into a
// graph after dact_cuda_preload. A pass of sums is two kernels and takes a workspace; any other is one. The thread's
// current context is the same afterwards.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `cuda` is NULL or came from dact_cuda_open and was not closed. `stream` is a stream of its device's primary
// context. `pass` and `tensors` are NULL or the addresses of such structures. From the call until the work on the
// stream is done: where the pass reads or writes, there are as many elements or words as `tensors` says, and at
// the key's device_offset 8 bytes, in memory that the device can access, and no other work writes what it reads or
// touches what it writes, unless streams or events order the two. `error` is NULL or the address of a pointer.
dact_status dact_cuda_run(const struct dact_cuda *cuda,
                          void *stream,
                          const struct dact_pass *pass,
                          const struct dact_tensors *tensors,
                          struct dact_error **error);

// How much memory dact_cuda_run needs at `tensors.workspace` for a pass: `bytes` is set to 0 but for
// DACT_PASS_STATISTICS and DACT_PASS_FUSED_SUMS. It looks at the type and the length of the tensors alone, and takes
// no device.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `pass` and `tensors` are NULL or the addresses of such structures. `bytes` is NULL or the address of a size. `error`
// is NULL or the address of a pointer.
dact_status dact_cuda_workspace_bytes(const struct dact_pass *pass,
                                      const struct dact_tensors *tensors,
                                      size_t *bytes,
                                      struct dact_error **error);

// Enqueues what adds `count` to the number at `base` in device memory, modulo 2^64: the end of a step whose keys had
// the offsets 0 to count - 1 and this address as device_offset. Captured into a graph with the step, it gives every
// replay fresh masks. `stream` and capture are as for dact_cuda_run.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `cuda` is NULL or came from dact_cuda_open and was not closed. `stream` is a stream of its device's primary
// context. From the call until the work on the stream is done, `base` is NULL or the address of 8 bytes that the
// device can access, and no other work reads or writes them, unless streams or events order the two. `error` is
// NULL or the address of a pointer.
dact_status dact_cuda_advance(const struct dact_cuda *cuda,
                              void *stream,
                              uint64_t *base,
                              uint64_t count,
                              struct dact_error **error);

// The message of an error: which argument, what was given, what is allowed. Valid until the error is freed; ""
// for NULL.
//
// # Safety
// `error` is NULL or came from this library and was not freed.
const char *dact_error_message(const struct dact_error *error);

// Frees an error. Does nothing for NULL.
//
// # Safety
// `error` is NULL or came from this library, was not freed, and is not used again.
void dact_error_free(struct dact_error *error);

// What a status means, in a few words that are never freed.
const char *dact_status_name(dact_status status);

// The name of an activation, as "gelu", which is never freed, by its code; NULL for what is no code. Codes count from 0.
const char *dact_activation_name(uint32_t activation);

// Words of 32 bits in a mask of `len` elements.
size_t dact_mask_words(size_t len);

// The version of the library that is loaded, as "0.1.0".
const char *dact_version(void);

// The version of the binary interface of the library that is loaded.
uint32_t dact_abi_version(void);

// Whether the library that is loaded has the binary interface of a header: call it once with DACT_ABI_VERSION,
// before anything else. Returns DACT_UNSUPPORTED if not.
//
// `error` may be NULL; else it is set to NULL, or on failure to an error that dact_error_free takes back.
//
// # Safety
// `error` is NULL or the address of a pointer.
dact_status dact_check_abi(uint32_t abi_version,
                           struct dact_error **error);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* DROP_ACTIVATION_C_INTERFACE_H */
