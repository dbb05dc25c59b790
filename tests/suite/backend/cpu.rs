//! The rayon backend.

use drop_activation::{DropActivation, InOut, MaskKey, PackedMask, Result, cpu};

use super::{Backend, Call, Run, dirty_mask};
use crate::data::Bits;
use crate::support::calls::on_cpu;

#[derive(Debug)]
pub struct Cpu;

impl<T: Bits> Run<T> for Cpu {
    fn run_call(&self, call: &Call<T>, io: InOut<T>) -> Result<Option<PackedMask>> {
        let mut refilled = dirty_mask();
        let made = on_cpu(call, io, &mut refilled)?;
        Ok(if call.kind().refills_mask() { Some(refilled) } else { made })
    }
}

impl Backend for Cpu {
    fn name(&self) -> String {
        "cpu".to_owned()
    }

    fn keep_words(&self, p: f64, key: MaskKey, len: usize) -> Result<Vec<u32>> {
        cpu::keep_mask(&DropActivation::relu(p)?, key, len)
    }
}
