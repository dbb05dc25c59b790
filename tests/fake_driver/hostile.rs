//! A hostile caller of the CUDA backend: random calls with streams, tensors and masks of several contexts, which
//! are dropped and made again in between, with lengths and masks that do not fit, and with a driver that refuses.
//!
//! Each call must enqueue its work, or give an error that is due and change nothing. What is due is said here
//! once more, without a look at the library's own checks. In the end everything has been given back.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use drop_activation::cuda::{self, CudaError, DeviceMask, InOut, Kernels, Saved};
use drop_activation::{Activation, DropActivation, Error, MaskKey, MaskOrigin, PackedMask, RRelu, Result};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestRunner};

use super::{Fake, fake};

/// Elements of every tensor; calls get views of them.
const LEN: usize = 256;
/// More than the memory of the first masks has room for.
const LONGEST: usize = 200;
const OFFSETS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Pass {
    Forward,
    ForwardInto,
    ForwardWithoutMask,
    Backward,
    BackwardFromOutput,
    Infer,
    InferBackward,
    RreluForward,
    RreluForwardInto,
    RreluBackward,
    RreluInfer,
    RreluInferBackward,
    ReluForward,
    ReluBackward,
}

use Pass::*;

const PASSES: [Pass; 14] = [
    Forward,
    ForwardInto,
    ForwardWithoutMask,
    Backward,
    BackwardFromOutput,
    Infer,
    InferBackward,
    RreluForward,
    RreluForwardInto,
    RreluBackward,
    RreluInfer,
    RreluInferBackward,
    ReluForward,
    ReluBackward,
];

#[derive(Clone, Debug)]
struct Call {
    pass: Pass,
    /// Those of kernels, stream, input, output, saved tensor and mask.
    choices: [Index; 6],
    /// The stream and the tensors are chosen among those that go together, and the length and the operation are
    /// the mask's.
    fitting: bool,
    in_place: bool,
    len: usize,
    /// More elements of the output and of the saved tensor.
    more: [usize; 2],
    offsets: [usize; 3],
    no_saved: bool,
    activation: Index,
    at_the_end: bool,
    refused: Option<&'static str>,
}

#[derive(Clone, Debug)]
enum Action {
    Call(Call),
    Close(Index),
    Open(Index),
    Tensor(Index, Index),
    ThroughTheHost(Index, Index),
}

fn actions() -> impl Strategy<Value = Action> {
    let choices = prop::array::uniform6(any::<Index>());
    let more = || prop_oneof![8 => Just(0), 1 => 1..5usize];
    let refused = prop_oneof![8 => Just(None), 1 => Just(Some("launch")), 1 => Just(Some("alloc"))];
    let what = (prop::sample::select(PASSES.to_vec()), choices, prop::bool::weighted(0.8), any::<Index>());
    let how = (any::<bool>(), 0..LONGEST, [more(), more()], [0..OFFSETS, 0..OFFSETS, 0..OFFSETS]);
    let odd = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), refused);
    let call = (what, how, odd).prop_map(|(what, how, odd)| {
        let ((pass, choices, fitting, activation), (in_place, len, more, offsets)) = (what, how);
        let (no_saved, at_the_end, refused) = odd;
        Action::Call(Call {
            pass,
            choices,
            fitting,
            in_place,
            len,
            more,
            offsets,
            no_saved,
            activation,
            at_the_end,
            refused,
        })
    });
    prop_oneof![
        12 => call,
        1 => any::<Index>().prop_map(Action::Close),
        1 => any::<Index>().prop_map(Action::Open),
        2 => any::<(Index, Index)>().prop_map(|(tensor, of)| Action::Tensor(tensor, of)),
        1 => any::<(Index, Index)>().prop_map(|(mask, of)| Action::ThroughTheHost(mask, of)),
    ]
}

/// A context of a device with what its owner holds.
struct Owner {
    _context: Arc<CudaContext>,
    kernels: Arc<Kernels>,
    streams: [Arc<CudaStream>; 2],
}

impl Owner {
    fn of(device: usize) -> Self {
        let context = cuda::context(device).unwrap();
        let kernels = Kernels::get(&context).unwrap();
        let streams = [context.new_stream().unwrap(), context.default_stream()];
        Self { _context: context, kernels, streams }
    }
}

struct Tensor {
    slice: CudaSlice<f32>,
    values: Vec<f32>,
}

impl Tensor {
    fn new(stream: &Arc<CudaStream>, start: usize) -> Self {
        let values: Vec<f32> = (0..LEN).map(|i| (start + i) as f32).collect();
        Self { slice: stream.clone_htod(&values).unwrap(), values }
    }

    fn is_as_told(&self) -> bool {
        self.slice.stream().clone_dtoh(&self.slice).unwrap() == self.values
    }
}

struct World {
    owners: Vec<Owner>,
    tensors: Vec<Tensor>,
    masks: Vec<DeviceMask>,
    made: usize,
}

type Tally = RefCell<BTreeMap<String, usize>>;

fn count(tally: &Tally, what: impl Into<String>) {
    *tally.borrow_mut().entry(what.into()).or_default() += 1;
}

fn same(a: &CudaSlice<impl Sized>, stream: &CudaStream) -> bool {
    Arc::ptr_eq(a.stream().context(), stream.context())
}

impl World {
    /// Two contexts of a device and one of another, a few tensors of each and some masks.
    fn new() -> Self {
        let owners: Vec<_> = [0, 0, 1].map(Owner::of).into();
        let tensors = (0..9).map(|i| Tensor::new(&owners[i % 3].streams[i / 6], 1000 * i)).collect();
        let mut world = Self { owners, tensors, masks: Vec::new(), made: 9 };
        for (i, activation) in [Activation::Relu, Activation::Gelu, Activation::Relu].into_iter().enumerate() {
            let (stream, op) = (&world.owners[i].streams[0], DropActivation::new(activation, 0.5).unwrap());
            for origin in [MaskOrigin::DropActivation(op), MaskOrigin::RRelu(RRelu::default(), MaskKey::new(1, 2))] {
                let mask = PackedMask::from_words(origin, 40 + i, vec![!0, 0xFF]).unwrap();
                world.masks.push(DeviceMask::from_host(stream, &mask).unwrap());
            }
        }
        world
    }

    fn apply(&mut self, fake: &Fake, action: &Action, tally: &Tally) {
        match action {
            Action::Call(call) => self.call(fake, call, tally),
            Action::Close(which) if self.owners.len() > 1 => drop(self.owners.remove(which.index(self.owners.len()))),
            Action::Close(_) => {}
            Action::Open(which) if self.owners.len() < 4 => self.owners.push(Owner::of(which.index(2))),
            Action::Open(_) => {}
            Action::Tensor(which, of) => {
                self.made += 1;
                let tensor = Tensor::new(&of.get(&self.owners).streams[0], 1000 * self.made);
                let place = which.index(self.tensors.len());
                self.tensors[place] = tensor;
            }
            Action::ThroughTheHost(which, of) => {
                let place = which.index(self.masks.len());
                let (mask, stream) = (&self.masks[place], &of.get(&self.owners).streams[1]);
                match mask.to_host(stream) {
                    Ok(host) => {
                        count(tally, "mask to the host");
                        assert_eq!((host.origin(), host.len()), (mask.origin(), mask.len()));
                        self.masks[place] = DeviceMask::from_host(stream, &host).unwrap();
                    }
                    Err(error) => assert_eq!(error, CudaError::Context { argument: "mask" }.into()),
                }
            }
        }
    }

    fn call(&mut self, fake: &Fake, call: &Call, tally: &Tally) {
        let Call { pass, fitting, len, in_place, .. } = *call;
        let [of_kernels, of_stream, of_input, of_output, of_saved, of_mask] = call.choices;
        let kernels = of_kernels.get(&self.owners).kernels.clone();
        let mut out = self.tensors.remove(of_output.index(self.tensors.len()));
        let place = of_mask.index(self.masks.len());
        let mut mask = self.masks.remove(place);

        // What goes together is of the output's context, which need not have an owner any more.
        let stream = match fitting {
            true => out.slice.stream().clone(),
            false => of_stream.get(&self.owners).streams[usize::from(in_place)].clone(),
        };
        let together: Vec<&Tensor> = self.tensors.iter().filter(|t| !fitting || same(&t.slice, &stream)).collect();
        let any: Vec<&Tensor> = if together.is_empty() { self.tensors.iter().collect() } else { together };
        let (input, saved) = (*of_input.get(&any), *of_saved.get(&any));

        let reads_mask = matches!(pass, Backward | RreluBackward);
        let n = if fitting && reads_mask { mask.len() } else { len };
        let mut op = DropActivation::new(*call.activation.get(&Activation::ALL), 0.5).unwrap();
        if let (MaskOrigin::DropActivation(made_by), true) = (mask.origin(), fitting && pass == Backward) {
            op = made_by;
        }
        let rrelu = RRelu::default();
        let relu = op.activation() == Activation::Relu;
        let key = MaskKey::new(1, 2).shard(if call.at_the_end { u64::MAX - 31 } else { 64 }).unwrap();
        let [more_out, more_saved] = call.more;
        let more_out = if in_place { 0 } else { more_out };
        let [at_input, at_out, at_saved] = call.offsets;

        // What is wrong with it.
        let mut due: Vec<Error> = Vec::new();
        let forward = matches!(pass, Infer | RreluInfer) || format!("{pass:?}").contains("Forward");
        let (reads, writes) = if forward { ("x", "y") } else { ("dy", "dx") };
        let context = |argument| Error::from(CudaError::Context { argument });
        if *stream.context() != *kernels.context() {
            due.push(context("stream"));
        }
        if in_place && !same(&out.slice, &stream) {
            due.push(context(reads));
        }
        if !in_place && !same(&input.slice, &stream) {
            due.push(context(reads));
        }
        if !in_place && !same(&out.slice, &stream) {
            due.push(context(writes));
        }
        let length = |argument, given, other| Error::Length { argument, given, other, expected: n };
        if more_out != 0 {
            due.push(length(writes, n + more_out, reads));
        }
        let saved_as = match pass {
            Backward if !call.no_saved => Some("x"),
            InferBackward | RreluInferBackward => Some("x"),
            BackwardFromOutput | ReluBackward => Some("y"),
            _ => None,
        };
        if let Some(name) = saved_as {
            if more_saved != 0 {
                due.push(length(name, n + more_saved, "dy"));
            }
            if !(same(&saved.slice, &stream) || pass == Backward && relu) {
                due.push(context(name));
            }
        }
        if matches!(pass, ForwardWithoutMask | BackwardFromOutput) && !relu {
            due.push(Error::NeedsMask { activation: op.activation() });
        }
        if pass == Backward && call.no_saved && !relu {
            due.push(Error::MissingInput { activation: op.activation() });
        }
        let draws = matches!(pass, Forward | ForwardInto | ForwardWithoutMask | RreluForward | RreluForwardInto);
        if draws && call.at_the_end && n > 32 {
            due.push(Error::IndexRange { first: key.first(), len: n });
        }
        let takes_mask = reads_mask || matches!(pass, ForwardInto | RreluForwardInto);
        if takes_mask && mask.to_host(&stream) == Err(context("mask")) {
            due.push(context("mask"));
        }
        if reads_mask {
            let expected = if pass == Backward { op.to_string() } else { rrelu.to_string() };
            let own = match mask.origin() {
                MaskOrigin::DropActivation(made_by) => pass == Backward && made_by == op,
                MaskOrigin::RRelu(..) => pass == RreluBackward,
            };
            if !own {
                due.push(Error::MaskOrigin { given: mask.origin(), expected });
            }
            if mask.len() != n {
                due.push(Error::MaskLength { given: mask.len(), other: "dy", expected: n });
            }
        }

        let before = (mask.origin(), mask.len(), mask.words().len());
        let mut made = None;
        let (given, log) = fake.log(|| {
            let saved = saved.slice.slice(at_saved..at_saved + n + more_saved);
            let x: Option<&dyn Saved<f32>> = if call.no_saved { None } else { Some(&saved) };
            let output = out.slice.slice_mut(at_out..at_out + n + more_out);
            let io = match in_place {
                true => InOut::InPlace(output),
                false => InOut::OutOfPlace(input.slice.slice(at_input..at_input + n), output),
            };
            let action = || -> Result<()> {
                match pass {
                    Forward => made = Some(kernels.forward(&stream, &op, key, io)?),
                    ForwardInto => kernels.forward_into(&stream, &op, key, io, &mut mask)?,
                    ForwardWithoutMask => kernels.forward_without_mask(&stream, &op, key, io)?,
                    Backward => kernels.backward(&stream, &op, &mask, x, io)?,
                    BackwardFromOutput => kernels.backward_from_output(&stream, &op, &saved, io)?,
                    Infer => kernels.infer(&stream, &op, io)?,
                    InferBackward => kernels.infer_backward(&stream, &op, &saved, io)?,
                    RreluForward => made = Some(kernels.rrelu_forward(&stream, &rrelu, key, io)?),
                    RreluForwardInto => kernels.rrelu_forward_into(&stream, &rrelu, key, io, &mut mask)?,
                    RreluBackward => kernels.rrelu_backward(&stream, &rrelu, &mask, io)?,
                    RreluInfer => kernels.rrelu_infer(&stream, &rrelu, io)?,
                    RreluInferBackward => kernels.rrelu_infer_backward(&stream, &rrelu, &saved, io)?,
                    ReluForward => kernels.relu_forward(&stream, io)?,
                    ReluBackward => kernels.relu_backward(&stream, &saved, io)?,
                }
                Ok(())
            };
            match call.refused {
                Some(what) => fake.with(what, 2, action),
                None => action(),
            }
        });

        let launches = log.iter().filter(|line| line.starts_with("launch")).count();
        match given {
            Ok(()) => {
                assert!(due.is_empty(), "{call:?} succeeded, but {due:?}");
                assert_eq!(launches, usize::from(n != 0), "{call:?}: {log:?}");
                // The stand-in's kernels copy, and set all bits of a mask.
                let from = if in_place { &out.values[at_out..] } else { &input.values[at_input..] };
                let copied = from[..n].to_vec();
                out.values[at_out..at_out + n].copy_from_slice(&copied);
                let filled = match pass {
                    ForwardInto | RreluForwardInto => Some(&mask),
                    _ => made.as_ref(),
                };
                if let Some(filled) = filled {
                    let host = filled.to_host(&stream).unwrap();
                    assert_eq!((host.len(), (0..n).all(|i| host.bit(i) == Some(true))), (n, true), "{call:?}");
                    let origin = match filled.origin() {
                        MaskOrigin::DropActivation(by) => by == op && format!("{pass:?}").starts_with('F'),
                        MaskOrigin::RRelu(by, of) => by == rrelu && of == key && format!("{pass:?}").starts_with('R'),
                    };
                    assert!(origin, "{call:?}");
                }
                count(tally, format!("{pass:?}"));
            }
            Err(error) => {
                let of_driver = matches!(error, Error::Cuda(CudaError::Driver { code: 2, .. }));
                let refused = of_driver && call.refused.is_some();
                assert!(refused || due.contains(&error), "{call:?}: {error}; expected {due:?}");
                assert_eq!(launches, 0, "{call:?}: {log:?}");
                assert_eq!((mask.origin(), mask.len(), mask.words().len()), before, "{call:?} changed the mask");
                count(
                    tally,
                    if refused {
                        "refused".to_owned()
                    } else {
                        error.to_string().split(' ').next().unwrap().to_owned()
                    },
                );
            }
        }
        self.masks.insert(place, made.unwrap_or(mask));
        self.tensors.push(out);
        assert!(self.tensors.iter().all(Tensor::is_as_told), "{call:?} wrote elsewhere");
    }
}

#[test]
fn random_calls() {
    let Some(fake) = fake() else { return };
    let (allocations, modules) = (fake.count("allocations"), fake.count("modules"));
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = 400;
    }
    if std::env::var_os("PROPTEST_RNG_SEED").is_none() {
        config.rng_seed = RngSeed::Fixed(104);
    }
    let tally = Tally::default();
    let run = TestRunner::new(config).run(&prop::collection::vec(actions(), 1..40), |actions| {
        let mut world = World::new();
        for action in &actions {
            world.apply(&fake, action, &tally);
        }
        drop(world);
        assert_eq!((fake.count("allocations"), fake.count("modules")), (allocations, modules), "something is left");
        Ok(())
    });
    run.unwrap_or_else(|failure| panic!("{failure}"));
    let tally = tally.into_inner();
    let passes = PASSES.map(|pass| format!("{pass:?}"));
    for what in passes.iter().map(String::as_str).chain(["refused", "mask to the host", "stream", "mask", "first"]) {
        assert!(tally.contains_key(what), "{what} never happened: {tally:#?}");
    }
}
