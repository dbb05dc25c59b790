//! See `--help`.

use std::process::ExitCode;

use experiments::options::{HELP, Options};

fn main() -> ExitCode {
    let result = Options::parse(std::env::args_os()).and_then(|options| match options {
        Some(options) => experiments::experiments::run(&options),
        None => {
            println!("{HELP}");
            Ok(())
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
