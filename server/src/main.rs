//! The `deltafront` program.

use std::process::ExitCode;

use clap::Parser;
use tokio_rustls::rustls::crypto::aws_lc_rs;

fn main() -> ExitCode {
    // Libraries that take the process's cryptography (Fluvio's client) get ours, whichever of them would
    // be first to choose. Nobody has chosen yet, so this can't fail.
    let _ = aws_lc_rs::default_provider().install_default();
    server::cli::main(server::cli::Cli::parse())
}
