//! The tables and verdicts of `docs/paper.md`, made from the results, so that page and results cannot differ.
//! Each stands between a line that names it and one that ends it.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::experiments::{keep_probability, networks, regression, regularisers, shift_ratio, theory, training_curve};
use crate::results::{Making, rows};

const BEGIN: &str = "<!-- generated from experiments/results: ";
const BEGIN_END: &str = " -->\n";
const END: &str = "<!-- end -->\n";

/// The page as it should be: `text` with what is generated in it made anew from the results in `folder`.
///
/// # Errors
/// If a result is missing or damaged, or a block of the page is named after none.
pub fn page(text: &str, folder: &Path) -> Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, block)) = rest.split_once(BEGIN) {
        let (name, block) = block.split_once(BEGIN_END).context("a block without a name")?;
        let (_, after) = block.split_once(END).with_context(|| format!("block {name} has no end"))?;
        let content = content(name, folder).with_context(|| format!("block {name}"))?;
        out += &format!("{before}{BEGIN}{name}{BEGIN_END}\n{}\n\n{END}", content.trim_end());
        rest = after;
    }
    Ok(out + rest)
}

fn content(name: &str, folder: &Path) -> Result<String> {
    let body = match name {
        "summary" => return summary(folder),
        "theory" => theory::report(&rows(folder, name)?),
        "regression" => regression::report(&seeded(folder, name, |r: &regression::Row| r.seeds)?),
        "keep-probability" => keep_probability::report(&seeded(folder, name, |r: &keep_probability::Row| r.seeds)?),
        "networks" => networks::report(&seeded(folder, name, |r: &networks::Row| r.seeds)?),
        "regularisers" => regularisers::report(&seeded(folder, name, |r: &regularisers::Row| r.seeds)?),
        "training-curve" => training_curve::report(&seeded(folder, name, |r: &training_curve::Row| r.seeds)?),
        "shift-ratio" => shift_ratio::report(&seeded(folder, name, |r: &shift_ratio::Row| r.seeds)?),
        _ => bail!("no experiment has that name"),
    };
    Ok(format!("{}\n\n{body}", Making::read(folder, name)?))
}

/// The rows of a table that must be of all seeds that were measured to their end.
fn seeded<R: serde::de::DeserializeOwned>(
    folder: &Path,
    experiment: &str,
    seeds: impl Fn(&R) -> usize,
) -> Result<Vec<R>> {
    let rows = rows(folder, experiment)?;
    let measured = Making::read(folder, experiment)?.seeds;
    for row in &rows {
        let shown = seeds(row);
        ensure!(shown == measured, "{experiment}.csv shows {shown} seeds, {experiment}.json holds {measured}");
    }
    Ok(rows)
}

/// Each claim with what was found.
fn summary(folder: &Path) -> Result<String> {
    let theory = rows(folder, "theory")?;
    let claims = [
        ("Property 5.1: training adds the penalty (11)", theory::summary_of_loss(&theory)),
        (
            "Property 5.2: the shift ratio is equation 15, between 0.8 and 1, 0.9377 at p = 0.95",
            theory::summary_of_ratio(&theory),
        ),
        ("Figure 3: Drop-Activation predicts better than ReLU", regression::summary(&rows(folder, "regression")?)),
        (
            "Figure 2: the test error is least at p = 0.95",
            keep_probability::summary(&rows(folder, "keep-probability")?),
        ),
        (
            "Tables 1 to 4: Drop-Activation improves most networks, and more than RReLU does",
            networks::summary(&rows(folder, "networks")?),
        ),
        (
            "Tables 5 and 6: it improves Cutout and AutoAugment further",
            regularisers::summary(&rows(folder, "regularisers")?),
        ),
        (
            "Figure 4: with it the training error is higher and the test error lower",
            training_curve::summary(&rows(folder, "training-curve")?),
        ),
        ("Figure 6: the shift ratio ends at 1", shift_ratio::summary(&rows(folder, "shift-ratio")?)),
    ];
    let found = |lines: Vec<String>| lines.iter().map(|line| format!("  - {line}\n")).collect::<String>();
    Ok(claims.map(|(claim, lines)| format!("- {claim}\n{}", found(lines))).concat())
}

/// A table in Markdown.
pub(crate) fn table<const N: usize>(head: &[&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut text = line(&head.map(str::to_owned)) + &format!("|{}\n", "---|".repeat(N));
    rows.into_iter().for_each(|row| text += &line(&row));
    text
}

/// Thousands in groups, as the page writes counts.
pub(crate) fn grouped(count: u64) -> String {
    match count {
        0..1_000 => count.to_string(),
        _ => format!("{},{:03}", grouped(count / 1_000), count % 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_and_counts() {
        assert_eq!(table(&["a", "b"], [["1".into(), "2".into()]]), "| a | b |\n|---|---|\n| 1 | 2 |\n");
        assert_eq!([999, 1_000, 36_479_194].map(grouped), ["999", "1,000", "36,479,194"]);
    }

    #[test]
    fn a_block_that_nothing_fills_is_an_error() {
        let folder = Path::new("nowhere");
        assert_eq!(page("no blocks\n", folder).expect("as it is"), "no blocks\n");
        let unknown = format!("{BEGIN}tables{BEGIN_END}{END}");
        assert!(format!("{:#}", page(&unknown, folder).expect_err("no such result")).contains("tables"));
        let open = format!("{BEGIN}theory{BEGIN_END}");
        assert!(page(&open, folder).expect_err("no end").to_string().contains("theory has no end"));
    }

    #[test]
    fn a_block_is_what_the_results_say() {
        let folder = std::env::temp_dir().join(format!("experiments-page-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let run = |seed: u64| {
            let machine = "a machine, 1 threads";
            serde_json::json!({ "cell": "p 1.00", "seed": seed, "seconds": 30.0, "machine": machine, "figures": [] })
        };
        let put = |seeds: u64| {
            let runs: Vec<_> = (0..seeds).map(run).collect();
            let settings = serde_json::json!({ "data": "digits", "train_images": 1_500, "test_images": 20 });
            let content = serde_json::json!({ "experiment": "keep-probability", "settings": settings, "runs": runs });
            std::fs::write(folder.join("keep-probability.json"), content.to_string()).expect("a file");
        };
        let table = "p,seeds,test_error,half_width,difference,difference_half_width\n\
                     0.95,2,9.5,1.25,-1,0.5\n1,2,10.5,1,0,0\n";
        std::fs::write(folder.join("keep-probability.csv"), table).expect("a file");
        let text = format!("before\n{BEGIN}keep-probability{BEGIN_END}old\n{END}after\n");

        put(2);
        let expected = format!(
            "before\n{BEGIN}keep-probability{BEGIN_END}\n\
             ```sh\ncargo run --release -p experiments -- keep-probability --seeds 2\n```\n\n\
             digits, 1,500 training and 20 test images.\nSeeds: 2; 60 s; a machine, one thread.\n\n\
             | p | test error (%) | less that of p = 1 (ReLU) |\n|---|---|---|\n\
             | 0.95 | 9.50 ± 1.25 | -1.00 ± 0.50: better |\n| 1.00 | 10.50 ± 1.00 |  |\n\n{END}after\n"
        );
        assert_eq!(page(&text, &folder).expect("a page"), expected);
        put(3);
        let error = format!("{:#}", page(&text, &folder).expect_err("another seed since"));
        assert!(error.contains("keep-probability.csv shows 2 seeds, keep-probability.json holds 3"), "{error}");
        std::fs::remove_dir_all(folder).expect("the test's own folder");
    }
}
