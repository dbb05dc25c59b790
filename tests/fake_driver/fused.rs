//! Passes over channels: how many launches each is, what waits for what, what is refused, and graphs of them.

use drop_activation::cuda::{DyAndDr, FusedSlices, Workspace};
use drop_activation::fused::{Dz, Shape};

use super::*;

const SHAPE: (usize, usize, usize) = (100, 8, 3);
const N: usize = 2400;

fn shape() -> Shape {
    Shape::new(SHAPE.0, SHAPE.1, SHAPE.2).unwrap()
}

/// The kernels that `action` launches, in order.
fn launched<R>(fake: &Fake, action: impl FnOnce() -> drop_activation::Result<R>) -> (R, Vec<String>) {
    let (result, log) = fake.log(action);
    let names = log.iter().filter_map(|line| line.strip_prefix("launch ")?.split(' ').next().map(str::to_owned));
    (result.unwrap(), names.collect())
}

#[test]
fn a_pass_is_one_launch_and_two_if_it_sums() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, other) = on_two_streams();
    let op = DropActivation::default();
    let tensor = || stream.alloc_zeros::<f32>(N).unwrap();
    let vector = || stream.alloc_zeros::<f32>(SHAPE.1).unwrap();
    let (x, mut y, residual) = (tensor(), tensor(), tensor());
    let (scale, shift, mut mean, mut variance) = (vector(), vector(), vector(), vector());
    let (mut s1, mut s2) = (vector(), vector());
    let mut workspace = Workspace::new();
    kernels.preload().unwrap();

    // Read: a wait each. Written: two waits each. An event is recorded for each of them.
    let (result, log) = fake
        .log(|| kernels.statistics(&stream, shape(), &x, mean.as_view_mut(), variance.as_view_mut(), &mut workspace));
    result.unwrap();
    let count = |word: &str| log.iter().filter(|line| line.starts_with(word)).count();
    assert_eq!((count("wait"), count("launch"), count("record")), (1 + 3 * 2, 2, 4), "{log:#?}");

    let before =
        FusedSlices { scale: Some(&scale), shift: Some(&shift), residual: Some(&residual), ..FusedSlices::default() };
    let (mask, waits, launch, records) =
        fake.pass(|| kernels.fused_forward(&stream, &op, KEY, shape(), &before, (&x, &mut y)));
    assert_eq!((waits, records), (4 + 2 * 2, 6), "x, vectors and residual read, y and the mask written");
    let on = |stream: &CudaStream| format!("n {N} grid 1 block 256 on {:p}", stream.cu_stream());
    assert_eq!(launch, format!("da_fused_forward_relu_f32 {}", on(&stream)));
    let ((), names) = launched(&fake, || kernels.fused_infer(&stream, &op, shape(), &before, &mut y));
    assert_eq!(names, ["da_fused_forward_relu_f32"]);

    let dz = Dz::Training(op);
    let slices = FusedSlices { x: Some(&x), mean: Some(&mean), ..FusedSlices::default() };
    let mut dr = tensor();
    let ((), names) = launched(&fake, || {
        let sums = [Some(s1.as_view_mut()), Some(s2.as_view_mut())];
        let dy = DyAndDr::Both((&y, &mut dr).into());
        kernels.fused_sums(&stream, &dz, Some(&mask), shape(), &slices, dy, sums, &mut workspace)
    });
    assert_eq!(names, ["da_fused_products_relu_f32", "da_fused_products_total_f32"]);
    let ((), names) = launched(&fake, || {
        let sums = [Some(s1.as_view_mut()), None];
        let dy = DyAndDr::Dy(y.as_view());
        kernels.fused_sums(&stream, &Dz::Given, None, shape(), &FusedSlices::default(), dy, sums, &mut workspace)
    });
    assert_eq!(names, ["da_fused_sums_relu_f32", "da_fused_sums_total_f32"]);

    // On another stream, which waits for what the first wrote.
    let slices = FusedSlices { alpha: Some(&scale), beta: Some(&s1), gamma: Some(&s2), ..slices };
    let ((), waits, launch, records) =
        fake.pass(|| kernels.fused_backward(&other, &dz, Some(&mask), shape(), &slices, &mut dr));
    assert_eq!((waits, records), (2 + 1 + 4 + 1, 7), "dr in place; x, four vectors and the mask read");
    assert_eq!(launch, format!("da_fused_backward_relu_f32 {}", on(&other)));
}

#[test]
fn a_workspace_grows_and_is_used_again() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let vector = || stream.alloc_zeros::<f64>(SHAPE.1).unwrap();
    let (mut mean, mut variance) = (vector(), vector());
    let (small, large) = (stream.alloc_zeros::<f64>(N).unwrap(), stream.alloc_zeros::<f64>(10 * N).unwrap());
    let mut workspace = Workspace::new();
    let mut run = |outer: usize, x: &_| {
        let shape = Shape::new(outer, SHAPE.1, SHAPE.2).unwrap();
        let before = fake.count("allocations");
        kernels.statistics(&stream, shape, x, mean.as_view_mut(), variance.as_view_mut(), &mut workspace).unwrap();
        fake.count("allocations") - before
    };
    assert_eq!(run(100, &small), 1);
    assert_eq!(run(100, &small), 0);
    assert_eq!(run(1000, &large), 0, "another in the old one's place");
    assert_eq!(run(100, &small), 0);
}

/// Else memory could be given away that the first launch still writes to.
#[test]
fn others_wait_for_the_first_launch_when_the_second_is_refused() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let dy = stream.alloc_zeros::<f32>(N).unwrap();
    let (mut dr, mut s1) = (stream.alloc_zeros::<f32>(N).unwrap(), stream.alloc_zeros::<f32>(SHAPE.1).unwrap());
    let mut workspace = Workspace::new();
    kernels.preload().unwrap();
    let mut sums = |refused: &str| {
        let (dy, sums) = (DyAndDr::Both((&dy, &mut dr).into()), [Some(s1.as_view_mut()), None]);
        let (dz, slices) = (Dz::Given, FusedSlices::default());
        let call = || kernels.fused_sums(&stream, &dz, None, shape(), &slices, dy, sums, &mut workspace);
        let (result, log) = fake.log(|| fake.with(refused, 2, call));
        let Err(Error::Cuda(CudaError::Driver { code: 2, .. })) = result else { panic!("{result:?}") };
        let count = |word: &str| log.iter().filter(|line| line.starts_with(word)).count();
        (count("launch"), count("record"))
    };
    assert_eq!(sums("total"), (1, 4), "dy, dr, the sum and the workspace");
    assert_eq!(sums("launch").0, 0);
}

/// However a shape without elements came to have none.
#[test]
fn nothing_has_sums_of_zero_and_no_other_launch() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let (op, three) = (DropActivation::default(), stream.clone_htod(&[7f32; 3]).unwrap());
    let x = stream.alloc_zeros::<f32>(1).unwrap();
    let mut y = stream.alloc_zeros::<f32>(1).unwrap();
    for (outer, inner) in [(0, 2), (2, 0), (0, 0)] {
        let shape = Shape::new(outer, 3, inner).unwrap();
        let slices = FusedSlices { scale: Some(&three), shift: Some(&three), ..FusedSlices::default() };
        let (empty, mut out) = (x.slice(..0), y.slice_mut(..0));
        let (mask, names) =
            launched(&fake, || kernels.fused_forward(&stream, &op, KEY, shape, &slices, (&empty, &mut out)));
        assert_eq!((mask.len(), names.len()), (0, 0), "{shape:?}");
        let dz = Dz::Training(op);
        let backward = || kernels.fused_backward(&stream, &dz, Some(&mask), shape, &slices, (&empty, &mut out));
        assert_eq!(launched(&fake, backward).1.len(), 0, "{shape:?}");
        let mut s1 = stream.clone_htod(&[7f32; 3]).unwrap();
        let sums = || {
            let (dy, sums) = (DyAndDr::Dy(empty.slice(..)), [Some(s1.as_view_mut()), None]);
            kernels.fused_sums(&stream, &dz, Some(&mask), shape, &slices, dy, sums, &mut Workspace::new())
        };
        assert_eq!(launched(&fake, sums).1, ["da_fused_sums_total_f32"], "{shape:?}");
        assert_eq!(stream.clone_dtoh(&s1).unwrap(), [0.0; 3]);
        // By addresses.
        let pass = Pass::FusedInfer { op, shape };
        // SAFETY: there is nothing to be accessed.
        let raw = || unsafe { kernels.launch_fused_raw(stream.cu_stream(), &pass, Dtype::F32, 0, &Default::default()) };
        assert_eq!(launched(&fake, raw).1.len(), 0, "{shape:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_happens() {
    let Some(fake) = fake() else { return };
    let (_context, kernels, stream, _) = on_two_streams();
    let far = cuda::context(1).unwrap().new_stream().unwrap();
    let (op, key) = (DropActivation::default(), KEY);
    let x = stream.alloc_zeros::<f32>(N).unwrap();
    let mut y = stream.alloc_zeros::<f32>(N).unwrap();
    let (short, of_far) = (stream.alloc_zeros::<f32>(7).unwrap(), far.alloc_zeros::<f32>(SHAPE.1).unwrap());
    let new = || stream.alloc_zeros::<f32>(SHAPE.1).unwrap();
    let (mut vector, mut second) = (new(), new());
    let mut scratch = stream.alloc_zeros::<f32>(N).unwrap();
    let nothing = FusedSlices::default();
    let mask = kernels.fused_forward(&stream, &op, key, shape(), &nothing, (&x, &mut y)).unwrap();
    let plain = kernels.forward(&stream, &gelu(), key, (&x, &mut y)).unwrap();
    let allocations = fake.count("allocations");
    let ((), log) = fake.log(|| {
        let wrong = FusedSlices { shift: Some(&short), ..FusedSlices::default() };
        let error = Error::ChannelVector { argument: "shift", given: 7, channels: SHAPE.1 };
        assert_eq!(kernels.fused_infer(&stream, &op, shape(), &wrong, &mut y), Err(error));
        let wrong = FusedSlices { scale: Some(&of_far), ..FusedSlices::default() };
        assert_eq!(kernels.fused_infer(&stream, &op, shape(), &wrong, &mut y), Err(of_context("scale")));
        let wrong = FusedSlices { residual: Some(&short), ..FusedSlices::default() };
        let length = |argument, given| Error::ShapeLength { argument, given, outer: 100, channels: 8, inner: 3 };
        assert_eq!(kernels.fused_infer(&stream, &op, shape(), &wrong, &mut y), Err(length("residual", 7)));
        let mut part = y.slice_mut(1..);
        assert_eq!(kernels.fused_infer(&stream, &op, shape(), &nothing, (&x, &mut part)), Err(length("y", N - 1)));
        let (dz, gelu_dz) = (Dz::Training(op), Dz::Training(gelu()));
        let missing = |argument| Error::Missing { argument };
        let half = FusedSlices { beta: Some(&of_far), ..FusedSlices::default() };
        let mut call =
            |slices: &_, mask| kernels.fused_backward(&stream, &dz, mask, shape(), slices, (&x, &mut scratch));
        assert_eq!(call(&half, Some(&mask)), Err(missing("gamma")));
        assert_eq!(call(&nothing, None), Err(missing("mask")));
        assert!(matches!(call(&nothing, Some(&plain)), Err(Error::MaskOrigin { .. })));
        let error = Error::MissingInput { activation: Activation::Gelu };
        assert_eq!(kernels.fused_backward(&stream, &gelu_dz, Some(&plain), shape(), &nothing, &mut y), Err(error));
        let mut workspace = Workspace::new();
        let (dy, sums) = (DyAndDr::Dy(x.as_view()), [None, None]);
        let error = kernels.fused_sums(&stream, &dz, Some(&mask), shape(), &nothing, dy, sums, &mut workspace);
        assert_eq!(error, Err(missing("s1")));
        let none = Shape::new(0, 8, 3).unwrap();
        let empty = x.slice(0..0);
        let error =
            kernels.statistics(&stream, none, &empty, vector.as_view_mut(), second.as_view_mut(), &mut workspace);
        assert_eq!(error, Err(Error::NoElements { outer: 0, channels: 8, inner: 3 }));
    });
    assert!(!log.iter().any(|line| line.starts_with("launch")), "{log:?}");
    assert_eq!(fake.count("allocations"), allocations);
}

/// As with other passes: the key's offset moves on by device memory, and nothing is allocated while capturing.
#[test]
fn a_captured_step_draws_on_and_allocates_nothing() {
    let Some(fake) = fake() else { return };
    let (context, kernels, stream, _) = on_two_streams();
    // SAFETY: this test uses one stream.
    unsafe { context.disable_event_tracking() };
    let op = DropActivation::default();
    let mut x = stream.alloc_zeros::<f32>(N).unwrap();
    let vector = || stream.alloc_zeros::<f32>(SHAPE.1).unwrap();
    let (mut mean, mut variance) = (vector(), vector());
    let mut keys = DeviceKeySequence::new(&kernels, &stream, 7).unwrap();
    let nothing = FusedSlices::default();
    let mut mask = kernels.fused_forward(&stream, &op, keys.next_key(), shape(), &nothing, &mut x).unwrap();
    keys.advance(&stream).unwrap();
    kernels.preload().unwrap();
    let (mut fresh, mut used) = (Workspace::new(), Workspace::new());
    kernels.statistics(&stream, shape(), &x, mean.as_view_mut(), variance.as_view_mut(), &mut used).unwrap();

    stream.begin_capture(CAPTURE).unwrap();
    let refused = kernels.statistics(&stream, shape(), &x, mean.as_view_mut(), variance.as_view_mut(), &mut fresh);
    assert!(matches!(refused, Err(Error::Cuda(CudaError::Capturing { .. }))), "{refused:?}");
    let allocations = fake.count("allocations");
    kernels.statistics(&stream, shape(), &x, mean.as_view_mut(), variance.as_view_mut(), &mut used).unwrap();
    kernels.fused_forward_into(&stream, &op, keys.next_key(), shape(), &nothing, &mut x, &mut mask).unwrap();
    keys.advance(&stream).unwrap();
    assert_eq!(fake.count("allocations"), allocations);
    let graph = stream.end_capture(NO_FLAGS).unwrap().unwrap();
    for step in 1..4 {
        let ((), log) = fake.log(|| graph.launch().unwrap());
        assert_eq!(draws(&log), [step], "{log:?}");
    }
    // SAFETY: as above.
    unsafe { context.enable_event_tracking() };
}
