//! `docs/paper.md` shows what is in `experiments/results`.

use std::path::Path;

#[test]
fn the_page_is_made_from_the_results() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let file = here.join("../docs/paper.md");
    let found = std::fs::read_to_string(&file).expect("docs/paper.md");
    let expected = experiments::page::page(&found, &here.join("results")).unwrap_or_else(|e| panic!("{e:#}"));
    if found == expected {
        return;
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&file, expected).expect("docs/paper.md");
        return;
    }
    let (line, (found, expected)) =
        (1..).zip(found.lines().zip(expected.lines())).find(|(_, (a, b))| a != b).expect("a line that differs");
    panic!(
        "docs/paper.md differs from experiments/results, first in line {line}:\n{found}\nshould be\n{expected}\n\
         BLESS=1 cargo test -p experiments --test page writes it anew"
    );
}
