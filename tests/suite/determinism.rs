//! The same key, the same bits: for every number of threads and every launch geometry.

use drop_activation::{Activation, DropActivation, InOut, MaskKey, cpu};

use crate::backend::Cpu;
use crate::data::{Rng, assert_each, same_bits};
use crate::passes::{ALIGNED, agrees, each_call};

#[test]
fn rayon_threads() {
    let mut rng = Rng::new(61);
    let (x, dy) = (rng.values::<f32>(200_001), rng.values(200_001));
    let gelu = DropActivation::new(Activation::Gelu, 0.6).unwrap();
    let key = MaskKey::new(62, 63);
    let mut before: Option<(Vec<f32>, Vec<u32>)> = None;
    for threads in [1, 2, 3, 7] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            each_call(0.6, key, &x, &dy, |call, input| agrees(&Cpu, call, input, ALIGNED[0]));
            let mut y = x.clone();
            let mask = cpu::forward(&gelu, key, InOut::InPlace(&mut y)).unwrap();
            let (first_y, first_words) = before.get_or_insert_with(|| (y.clone(), mask.words().to_vec()));
            assert_each(&|| format!("{threads} threads"), &y, first_y, same_bits);
            assert_eq!(mask.words(), first_words);
        });
    }
}

/// Every size of a block, grids with too few and too many of them; lanes, warps and blocks that go in another
/// order each time.
#[cfg(feature = "cuda")]
fn launch_geometries<M: crate::emulator::Machine>(mut backend: crate::backend::OnCpu<M>) {
    use crate::backend::{Backend, Call, OnCpu};
    use crate::emulator::Order;
    use crate::passes::{Placement, run};

    let mut rng = Rng::new(64);
    let len = 7 * 1024 + 33;
    let key = MaskKey::new(65, 66);
    let (x, dy) = (rng.values::<drop_activation::half::f16>(len), rng.values(len));
    let (x32, dy32) = (rng.values::<f32>(len), rng.values(len));
    let gelu = DropActivation::new(Activation::Gelu, 0.6).unwrap();
    let odd = Placement { input: 1, output: 2, saved: 3, in_place: false };
    let sigma = |backend: &OnCpu<M>| run(backend, &Call::Forward(gelu, key), &x32, ALIGNED[0]);
    let expected = sigma(&backend);

    let geometries = [(1, 32), (1, 256), (2, 96), (8, 32), (5, 224), (100, 64), (3, 128), (2, 160), (1, 192)];
    for geometry in geometries {
        for order in Order::ALL {
            backend.geometry = Some(geometry);
            backend.order = Some(order);
            for at in [ALIGNED[0], ALIGNED[1], odd] {
                each_call(0.6, key, &x, &dy, |call, input| agrees(&backend, call, input, at));
                each_call(0.95, key, &x32, &dy32, |call, input| agrees(&backend, call, input, at));
            }
            let given = sigma(&backend);
            assert_each(&|| backend.name(), &given.0, &expected.0, same_bits);
            assert_eq!(given.1, expected.1);
        }
    }
}

#[cfg(feature = "cuda")]
#[test]
fn emulated_launch_geometries() {
    crate::backend::Emulated::load().into_iter().for_each(launch_geometries);
}

#[cfg(feature = "cuda")]
#[test]
fn ptx_launch_geometries() {
    crate::backend::Compiled::shipped().into_iter().for_each(launch_geometries);
}
