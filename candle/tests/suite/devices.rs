//! The devices that the suite runs on.

use candle_core::Device;

/// The CPU, and a GPU if there is one and this was built for it.
pub fn devices() -> Vec<Device> {
    let mut devices = vec![Device::Cpu];
    match gpu() {
        Ok(gpu) => devices.push(gpu),
        Err(why) => skip(&why),
    }
    devices
}

#[cfg(feature = "cuda")]
fn gpu() -> Result<Device, String> {
    // Asked first, because candle panics where there is no driver.
    drop_activation_candle::drop_activation::cuda::available().map_err(|e| e.to_string())?;
    Device::new_cuda(0).map_err(|e| e.to_string())
}

#[cfg(not(feature = "cuda"))]
fn gpu() -> Result<Device, String> {
    Err("the tests were built without the feature cuda".to_owned())
}

/// Says so once; with `DROP_ACTIVATION_REQUIRE_GPU=1` it is a failure.
fn skip(why: &str) {
    use std::io::Write;
    use std::sync::Once;

    static SAID: Once = Once::new();
    let required = std::env::var_os("DROP_ACTIVATION_REQUIRE_GPU").is_some_and(|v| !v.is_empty() && v != "0");
    assert!(!required, "DROP_ACTIVATION_REQUIRE_GPU is set: {why}");
    SAID.call_once(|| {
        // Not by eprintln!, which shows in failing tests only.
        let _ = writeln!(std::io::stderr(), "SKIPPED: candle on a GPU: {why}");
    });
}
