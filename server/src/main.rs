//! The `deltafront` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    server::cli::program()
}
