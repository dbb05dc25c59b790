//! Which driver the backend needs: cudarc looks each function up when it is first called, and panics where the driver
//! has none, so a call tells whether its function is there. The tests beside this one make every kind of call on a
//! driver that has nothing but what is in `libcuda.c`.

use std::collections::BTreeMap;
use std::path::Path;

use super::Write;

/// Functions, the CUDA version whose driver first had each of them (as the digits after `PFN_cuName_v` in NVIDIA's
/// cudaTypedefs.h), and what they are for.
const TABLE: &str = include_str!("../data/driver-functions.csv");
const DRIVER: &str = include_str!("libcuda.c");

/// CUDA 11.2. From there on a driver knows, too, the attribute that cudarc asks each new context for
/// (CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED).
const OLDEST: u32 = 11020;

fn table() -> BTreeMap<&'static str, (u32, &'static str)> {
    let rows = TABLE.lines().skip_while(|line| line.starts_with('#')).skip(1).map(|line| {
        let mut cells = line.splitn(3, ',');
        let mut cell = || cells.next().unwrap_or_else(|| panic!("three cells: {line}"));
        (cell(), (cell().parse().unwrap(), cell()))
    });
    rows.collect()
}

#[test]
fn the_driver_may_be_as_old_as_11_2() {
    let table = table();
    let defined: Vec<_> = DRIVER
        .lines()
        .filter_map(|line| line.strip_prefix("Result cu").and_then(|rest| rest.split_once('(')))
        .map(|(name, _)| format!("cu{name}"))
        .collect();
    let mut sorted: Vec<_> = defined.iter().map(String::as_str).collect();
    sorted.sort();
    assert!(sorted.len() > 30, "{sorted:?}");
    assert_eq!(sorted, table.keys().copied().collect::<Vec<_>>(), "tests/data/driver-functions.csv");
    for (name, (since, what_for)) in &table {
        let by_callers = ["graphs", "timing"].contains(what_for);
        assert!(*since <= OLDEST || by_callers, "{name} came with {since}, and every program needs it");
        assert!(by_callers || *what_for == "passes", "{name}: {what_for}");
    }
    assert!(table.values().any(|(since, what_for)| (*since, *what_for) == (OLDEST, "passes")), "it could be older");
}

/// The versions are those of NVIDIA's header, where there is one.
#[test]
fn the_functions_came_when_nvidia_says() {
    let home = ["CUDA_HOME", "CUDA_PATH", "CUDA_ROOT", "CUDA_TOOLKIT_ROOT_DIR"].map(std::env::var_os);
    let headers = home.iter().flatten().map(|home| Path::new(home).join("include/cudaTypedefs.h"));
    let Some(header) = headers.into_iter().find_map(|file| std::fs::read_to_string(file).ok()) else {
        let line = "SKIPPED: the table of the driver's functions was not compared: no cudaTypedefs.h in CUDA_HOME";
        let _ = writeln!(std::io::stderr(), "{line}");
        return;
    };
    for (name, (since, _)) in table() {
        // The newest of the forms that are called by this name is the one that the header gives it.
        let (stem, suffix) = name.split_once("_v").map_or((name, None), |(stem, suffix)| (stem, Some(suffix)));
        let typedef = format!("PFN_{stem}_v{since})");
        assert!(header.contains(&typedef), "{name} is not of {since}");
        assert!(suffix.is_none_or(|suffix| suffix.parse::<u32>().is_ok()), "{name}");
    }
}
