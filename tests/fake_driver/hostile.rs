//! A hostile caller of the CUDA backend: random calls with streams, tensors and masks of several contexts, which
//! are dropped and made again in between, with lengths and masks that do not fit, and with a driver that refuses.
//!
//! Each call must enqueue its work, or give an error that is due and change nothing. In the end everything has been
//! given back.

use std::sync::Arc;

use drop_activation::cuda::cudarc::driver::{CudaContext, CudaSlice, CudaStream};
use drop_activation::cuda::{self, CudaError, DeviceMask, InOut, Kernels};
use drop_activation::{Activation, DropActivation, Error, MaskKey, MaskOrigin, PackedMask, RRelu};
use proptest::prelude::*;
use proptest::sample::Index;

use super::{Fake, fake};
use crate::support::calls::{Arguments, DeviceCall, Kind, on_cuda};
use crate::support::property::{self, Tally};

/// Elements of every tensor; calls get views of them.
const LEN: usize = 256;
/// More than the memory of the first masks can hold.
const LONGEST: usize = 200;
const OFFSETS: usize = 8;

#[derive(Clone, Debug)]
struct Choice {
    kind: Kind,
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
    Call(Choice),
    Close(Index),
    Open(Index),
    Tensor(Index, Index),
    ThroughTheHost(Index, Index),
}

fn actions() -> impl Strategy<Value = Action> {
    let choices = prop::array::uniform6(any::<Index>());
    let more = || prop_oneof![8 => Just(0), 1 => 1..5usize];
    let refused = prop_oneof![8 => Just(None), 1 => Just(Some("launch")), 1 => Just(Some("alloc"))];
    let what = (prop::sample::select(Kind::ALL.to_vec()), choices, prop::bool::weighted(0.8), any::<Index>());
    let how = (any::<bool>(), 0..LONGEST, [more(), more()], [0..OFFSETS, 0..OFFSETS, 0..OFFSETS]);
    let odd = (prop::bool::weighted(0.1), prop::bool::weighted(0.1), refused);
    let call = (what, how, odd).prop_map(|(what, how, odd)| {
        let ((kind, choices, fitting, activation), (in_place, len, more, offsets)) = (what, how);
        let (no_saved, at_the_end, refused) = odd;
        Action::Call(Choice {
            kind,
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
            Action::Call(choice) => self.call(fake, choice, tally),
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
                        tally.count("mask to the host");
                        assert_eq!((host.origin(), host.len()), (mask.origin(), mask.len()));
                        self.masks[place] = DeviceMask::from_host(stream, &host).unwrap();
                    }
                    Err(error) => assert_eq!(error, CudaError::Context { argument: "mask" }.into()),
                }
            }
        }
    }

    fn call(&mut self, fake: &Fake, choice: &Choice, tally: &Tally) {
        let Choice { kind, fitting, len, in_place, .. } = *choice;
        let [of_kernels, of_stream, of_input, of_output, of_saved, of_mask] = choice.choices;
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

        let n = if fitting && kind.reads_mask() { mask.len() } else { len };
        let mut op = DropActivation::new(*choice.activation.get(&Activation::ALL), 0.5).unwrap();
        if let (MaskOrigin::DropActivation(made_by), true) = (mask.origin(), fitting && kind == Kind::Backward) {
            op = made_by;
        }
        let rrelu = RRelu::default();
        let key = MaskKey::new(1, 2).shard(if choice.at_the_end { u64::MAX - 31 } else { 64 }).unwrap();
        let [more_out, more_saved] = choice.more;
        let more_out = if in_place { 0 } else { more_out };
        let [at_input, at_out, at_saved] = choice.offsets;

        let saved_view = saved.slice.slice(at_saved..at_saved + n + more_saved);
        let with_saved = !choice.no_saved;
        let call = DeviceCall::new(kind, Arguments { op, rrelu, key, mask: (), saved: &saved_view, with_saved });

        // What is wrong with it: what would be on the CPU, and whatever is of another context than the stream.
        let mut due = call.due(n, n + more_out, n + more_saved, (mask.origin(), mask.len()));
        let context = |argument| Error::from(CudaError::Context { argument });
        if *stream.context() != *kernels.context() {
            due.push(context("stream"));
        }
        let (reads, writes) = kind.tensors();
        let read = if in_place { &out.slice } else { &input.slice };
        if !same(read, &stream) {
            due.push(context(reads));
        }
        if !in_place && !same(&out.slice, &stream) {
            due.push(context(writes));
        }
        // ReLU's backward pass has no use for x.
        let unused = kind == Kind::Backward && op.activation() == Activation::Relu;
        if let Some((name, _)) = call.saved().filter(|_| !unused && !same(&saved.slice, &stream)) {
            due.push(context(name));
        }
        let takes_mask = kind.reads_mask() || kind.refills_mask();
        if takes_mask && mask.to_host(&stream) == Err(context("mask")) {
            due.push(context("mask"));
        }

        let before = (mask.origin(), mask.len(), mask.words().len());
        let (given, log) = fake.log(|| {
            let output = out.slice.slice_mut(at_out..at_out + n + more_out);
            let io = match in_place {
                true => InOut::InPlace(output),
                false => InOut::OutOfPlace(input.slice.slice(at_input..at_input + n), output),
            };
            let action = || on_cuda(&kernels, &stream, &call, io, &mut mask);
            match choice.refused {
                Some(what) => fake.with(what, 2, action),
                None => action(),
            }
        });

        let launches = log.iter().filter(|line| line.starts_with("launch")).count();
        let mut made = None;
        match given {
            Ok(given) => {
                made = given;
                assert!(due.is_empty(), "{choice:?} succeeded, but {due:?}");
                assert_eq!(launches, usize::from(n != 0), "{choice:?}: {log:?}");
                // The stand-in's kernels copy, and set all bits of a mask.
                let from = if in_place { &out.values[at_out..] } else { &input.values[at_input..] };
                let copied = from[..n].to_vec();
                out.values[at_out..at_out + n].copy_from_slice(&copied);
                if let Some(filled) = if kind.refills_mask() { Some(&mask) } else { made.as_ref() } {
                    let host = filled.to_host(&stream).unwrap();
                    assert_eq!((host.len(), (0..n).all(|i| host.bit(i) == Some(true))), (n, true), "{choice:?}");
                    let origin = match kind {
                        Kind::Forward | Kind::ForwardInto => MaskOrigin::DropActivation(op),
                        _ => MaskOrigin::RRelu(rrelu, key),
                    };
                    assert_eq!(filled.origin(), origin, "{choice:?}");
                }
                tally.count(format!("{kind:?}"));
            }
            Err(error) => {
                let of_driver = matches!(error, Error::Cuda(CudaError::Driver { code: 2, .. }));
                let refused = of_driver && choice.refused.is_some();
                assert!(refused || due.contains(&error), "{choice:?}: {error}; expected {due:?}");
                assert_eq!(launches, 0, "{choice:?}: {log:?}");
                assert_eq!((mask.origin(), mask.len(), mask.words().len()), before, "{choice:?} changed the mask");
                let text = error.to_string();
                tally.count(if refused { "refused" } else { text.split(' ').next().unwrap() });
            }
        }
        self.masks.insert(place, made.unwrap_or(mask));
        self.tensors.push(out);
        assert!(self.tensors.iter().all(Tensor::is_as_told), "{choice:?} wrote elsewhere");
    }
}

#[test]
fn random_calls() {
    let Some(fake) = fake() else { return };
    let (allocations, modules) = (fake.count("allocations"), fake.count("modules"));
    let tally = Tally::default();
    property::check(400, 104, &prop::collection::vec(actions(), 1..40), |actions| {
        let mut world = World::new();
        for action in &actions {
            world.apply(&fake, action, &tally);
        }
        drop(world);
        assert_eq!((fake.count("allocations"), fake.count("modules")), (allocations, modules), "something is left");
    });
    let kinds = Kind::ALL.map(|kind| format!("{kind:?}"));
    let others = ["refused", "mask to the host", "stream", "mask", "first"];
    tally.assert_happened(kinds.iter().map(String::as_str).chain(others));
}
