//! The program, as the tests are compiled.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::cli::program()
}
