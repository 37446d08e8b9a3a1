//! The `deltafront` program.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    server::cli::main(server::cli::Cli::parse())
}
