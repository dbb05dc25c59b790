//! What only a GPU can show: tensors beyond 2^32 elements, several streams and threads at once. Where there
//! is none, each test says so; with `DROP_ACTIVATION_REQUIRE_GPU=1` that is a failure.
#![cfg(feature = "cuda")]

#[path = "support/cublaslt.rs"]
mod cublaslt;
mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, DevicePtr, sys};
use drop_activation::cuda::{self, DeviceKeySequence, Kernels};
use drop_activation::half::bf16;
use drop_activation::{DropActivation, KeySequence, MaskKey, RRelu, cpu, reference};

use support::skipped::tell_without_gpu;

/// For one test at a time: a capture is lost when another thread waits for the context meanwhile, as a context object's
/// first stream does.
fn gpu(test: &str) -> Option<(MutexGuard<'static, ()>, Arc<CudaContext>, Arc<Kernels>)> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    match cuda::context(0) {
        Ok(context) => {
            let kernels = Kernels::get(&context).unwrap_or_else(|e| panic!("{e}"));
            Some((alone, context, kernels))
        }
        Err(why) => {
            tell_without_gpu(test, &why);
            None
        }
    }
}

/// 2^32 + 1500 elements: indices, words and addresses beyond 32 bits. The input repeats a short pattern, so
/// that the host need not hold it; windows of the result are compared with shards on the CPU.
#[test]
fn beyond_2_to_the_32_elements() {
    const N: usize = (1 << 32) + 1500;
    const PATTERN: usize = 1 << 24;
    let Some((_alone, context, kernels)) = gpu("tensors beyond 2^32 elements") else { return };
    let stream = context.new_stream().expect("a stream");
    let pattern: Vec<bf16> = (0..PATTERN).map(|i| bf16::from_f32((i % 7) as f32 - 3.0)).collect();
    let device_pattern = stream.clone_htod(&pattern).expect("a copy");
    // SAFETY: every element is written below before anything reads it.
    let mut x: CudaSlice<bf16> = unsafe { stream.alloc(N) }.expect("17 GB of device memory for two tensors");
    for start in (0..N).step_by(PATTERN) {
        let len = PATTERN.min(N - start);
        let mut part = x.slice_mut(start..start + len);
        stream.memcpy_dtod(&device_pattern.slice(..len), &mut part).expect("a copy");
    }
    let op = DropActivation::relu(0.6).expect("a probability");
    let key = MaskKey::new(11, 12);
    let mask = kernels.forward(&stream, &op, key, &mut x).expect("a launch");
    let mut dx = stream.clone_dtod(&x).expect("a copy");
    kernels.backward(&stream, &op, &mask, None, &mut dx).expect("a launch");

    for start in [0, (1 << 31) - 1024, (1usize << 32) - 4096, (1 << 32) - 32, N / 32 * 32 - 1024] {
        let len = 4096.min(N - start);
        let window: Vec<bf16> = (start..start + len).map(|i| pattern[i % PATTERN]).collect();
        let shard = key.shard(start as u64).expect("a multiple of 32");
        let (y, expected) = reference::forward(&op, shard, &window).expect("a shard");
        let words = stream.clone_dtoh(&mask.words().slice(start / 32..(start + len).div_ceil(32))).expect("a copy");
        assert_eq!(words, expected.words(), "mask at {start}");
        let bits = |v: &[bf16]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&stream.clone_dtoh(&x.slice(start..start + len)).expect("a copy")), bits(&y), "y at {start}");
        let gradient = reference::backward(&op, &expected, None, &y).expect("a backward pass");
        let dx = stream.clone_dtoh(&dx.slice(start..start + len)).expect("a copy");
        assert_eq!(bits(&dx), bits(&gradient), "dx at {start}");
    }
}

/// Sixteen threads, each with a stream of its own, share the kernels.
#[test]
fn threads_and_streams_at_once() {
    let Some((_alone, context, kernels)) = gpu("threads and streams at once") else { return };
    let keys = KeySequence::new(5);
    std::thread::scope(|scope| {
        for thread in 0..16 {
            let (context, kernels, keys) = (&context, &kernels, &keys);
            scope.spawn(move || {
                let stream = context.new_stream().expect("a stream");
                let op = DropActivation::relu(0.5 + f64::from(thread) / 40.0).expect("a probability");
                let x: Vec<f32> = (0..100_003).map(|i| ((i * 37 + thread) % 11) as f32 - 5.0).collect();
                for _ in 0..20 {
                    let key = keys.next_key();
                    let mut y = stream.clone_htod(&x).expect("a copy");
                    let mask = kernels.forward(&stream, &op, key, &mut y).expect("a launch");
                    let mut expected = vec![0.0; x.len()];
                    let expected_mask = cpu::forward(&op, key, (&x, &mut expected)).expect("a pass");
                    assert_eq!(mask.to_host(&stream).expect("a copy"), expected_mask);
                    assert_eq!(stream.clone_dtoh(&y).expect("a copy"), expected);
                }
            });
        }
    });
}

/// What one stream writes another reads without a word from the caller: cudarc's events order them.
#[test]
fn a_mask_that_crosses_streams() {
    let Some((_alone, context, kernels)) = gpu("a mask that crosses streams") else { return };
    let (forward, backward) = (context.new_stream().expect("a stream"), context.new_stream().expect("a stream"));
    let op = DropActivation::default();
    let keys = KeySequence::new(6);
    let x: Vec<f32> = (0..1 << 22).map(|i| if i % 3 == 0 { 1.0 } else { -1.0 }).collect();
    let (device_x, mut y) = (forward.clone_htod(&x).expect("a copy"), forward.clone_htod(&x).expect("a copy"));
    let ones = backward.clone_htod(&vec![1.0f32; x.len()]).expect("a copy");
    let mut dx = backward.clone_htod(&x).expect("a copy");
    let mut mask = kernels.forward(&forward, &op, keys.next_key(), (&device_x, &mut y)).expect("a launch");
    for _ in 0..50 {
        let key = keys.next_key();
        kernels.forward_into(&forward, &op, key, (&device_x, &mut y), &mut mask).expect("a launch");
        kernels.backward(&backward, &op, &mask, None, (&ones, &mut dx)).expect("a launch");
        let words = cpu::forward(&op, key, (&x, &mut vec![0.0; x.len()])).expect("a pass");
        let dx = backward.clone_dtoh(&dx).expect("a copy");
        assert!(dx.iter().enumerate().all(|(i, dx)| (*dx == 1.0) == words.bit(i).expect("inside")), "a stale mask");
    }
}

/// A step of two layers and the advance of their keys, captured once: each replay is the next step without a graph.
#[test]
fn a_graph_draws_fresh_masks_at_every_replay() {
    let Some((_alone, context, kernels)) = gpu("a captured graph") else { return };
    let stream = context.new_stream().expect("a stream");
    // A context object of its own for this test: the others rely on events.
    // SAFETY: nothing but this test uses this context object, and it has one stream.
    unsafe { context.disable_event_tracking() };
    let (op, rrelu) = (DropActivation::relu(0.6).expect("a probability"), RRelu::default());
    let x: Vec<f32> = (0..100_003).map(|i| (i % 11) as f32 - 5.0).collect();
    let (device_x, dy) = (stream.clone_htod(&x).expect("a copy"), vec![1.0f32; x.len()]);
    let device_dy = stream.clone_htod(&dy).expect("a copy");
    let mut tensors = [(); 4].map(|()| stream.alloc_zeros::<f32>(x.len()).expect("memory"));
    let [hidden, y, dhidden, dx] = &mut tensors;

    // Across the carry into the upper half of the offset.
    let start = (1 << 32) - 5;
    let plain = KeySequence::resume(9, start);
    let mut keys = DeviceKeySequence::resume(&kernels, &stream, 9, start).expect("a sequence");
    let mut first = kernels.forward(&stream, &op, plain.next_key(), (&device_x, &mut *hidden)).expect("a launch");
    let mut second = kernels.rrelu_forward(&stream, &rrelu, plain.next_key(), (&*hidden, &mut *y)).expect("a launch");
    keys.set(&stream, plain.next_offset()).expect("a launch");
    kernels.preload().expect("all kernels");

    let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
    stream.begin_capture(mode).expect("a capture");
    kernels.forward_into(&stream, &op, keys.next_key(), (&device_x, &mut *hidden), &mut first).expect("a launch");
    kernels.rrelu_forward_into(&stream, &rrelu, keys.next_key(), (&*hidden, &mut *y), &mut second).expect("a launch");
    kernels.rrelu_backward(&stream, &rrelu, &second, (&device_dy, &mut *dhidden)).expect("a launch");
    kernels.backward(&stream, &op, &first, None, (&*dhidden, &mut *dx)).expect("a launch");
    keys.advance(&stream).expect("a launch");
    let graph = stream.end_capture(sys::CUgraphInstantiate_flags(0)).expect("a graph").expect("not an empty one");

    for replay in 0..5 {
        graph.launch().expect("a replay");
        let [mut host_hidden, mut host_y, mut host_dx] = [(); 3].map(|()| vec![0.0; x.len()]);
        let relu_mask = cpu::forward(&op, plain.next_key(), (&x, &mut host_hidden)).expect("a pass");
        let signs = cpu::rrelu_forward(&rrelu, plain.next_key(), (&host_hidden, &mut host_y)).expect("a pass");
        cpu::rrelu_backward(&rrelu, &signs, (&dy, &mut host_dx)).expect("a pass");
        cpu::backward(&op, &relu_mask, None, &mut host_dx).expect("a pass");
        assert_eq!(first.to_host(&stream).expect("a copy"), relu_mask, "replay {replay}");
        assert_eq!(second.to_host(&stream).expect("a copy"), signs, "replay {replay}, with the key");
        assert_eq!(stream.clone_dtoh(&*y).expect("a copy"), host_y, "replay {replay}");
        assert_eq!(stream.clone_dtoh(&*dx).expect("a copy"), host_dx, "replay {replay}");
        assert_eq!(keys.read(&stream).expect("a copy"), plain.next_offset(), "replay {replay}");
    }
}

/// Where rows have a multiple of 128 elements, cuBLASLt applies a mask of ours and sums the gradient of a bias, in the
/// matrix product that makes dy: all numbers are small and whole, so that every sum is exact.
#[test]
fn cublaslt_applies_a_mask() {
    let Some((_alone, context, kernels)) = gpu("cuBLASLt with a mask") else { return };
    let library = match cublaslt::load() {
        Ok(library) => library,
        Err(why) => return tell_without_gpu("cuBLASLt with a mask", &why),
    };
    const ROWS: usize = 96;
    const COLS: usize = 384;
    const DEPTH: usize = 64;
    let stream = context.new_stream().expect("a stream");
    let whole = |n: usize, by: usize| (0..n).map(|i| (i * by % 7) as f32 - 3.0).collect::<Vec<f32>>();
    let (x, left, right) = (whole(ROWS * COLS, 5), whole(ROWS * DEPTH, 3), whole(DEPTH * COLS, 11));
    let dy: Vec<f32> = (0..ROWS * COLS)
        .map(|i| (0..DEPTH).map(|k| left[i / COLS * DEPTH + k] * right[k * COLS + i % COLS]).sum())
        .collect();
    let (op, key) = (DropActivation::relu(0.6).expect("a probability"), MaskKey::new(3, 4));
    let mut y = stream.clone_htod(&x).expect("a copy");
    let mask = kernels.forward(&stream, &op, key, &mut y).expect("a launch");
    let mut dx = stream.clone_htod(&dy).expect("a copy");
    kernels.backward(&stream, &op, &mask, None, &mut dx).expect("a launch");

    let (left, right) = (stream.clone_htod(&left).expect("a copy"), stream.clone_htod(&right).expect("a copy"));
    let product = stream.alloc_zeros::<f32>(ROWS * COLS).expect("memory");
    let bias = stream.alloc_zeros::<f32>(COLS).expect("memory");
    let words = mask.words();
    let of = cublaslt::Product {
        rows: ROWS,
        cols: COLS,
        depth: DEPTH,
        left: left.device_ptr(&stream).0,
        right: right.device_ptr(&stream).0,
        product: product.device_ptr(&stream).0,
        mask: words.device_ptr(&stream).0,
        bias: bias.device_ptr(&stream).0,
        stream: stream.cu_stream().cast(),
    };
    stream.synchronize().expect("what came before");
    context.bind_to_thread().expect("the context");
    // SAFETY: the slices have as many elements, in the stream's context.
    unsafe { of.run(&library) }.unwrap_or_else(|why| panic!("{why}"));
    let dx = stream.clone_dtoh(&dx).expect("a copy");
    assert_eq!(stream.clone_dtoh(&product).expect("a copy"), dx);
    let sums: Vec<f32> = (0..COLS).map(|col| (0..ROWS).map(|row| dx[row * COLS + col]).sum()).collect();
    assert_eq!(stream.clone_dtoh(&bias).expect("a copy"), sums);
}
